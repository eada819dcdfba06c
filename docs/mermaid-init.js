// Draws the diagrams of the book. `make docs` puts mermaid.min.js beside the pages.
(() => {
  const diagrams = [...document.querySelectorAll('code.language-mermaid')];
  if (diagrams.length === 0) return;
  for (const code of diagrams) {
    const figure = document.createElement('pre');
    figure.className = 'mermaid';
    figure.textContent = code.textContent;
    code.closest('pre').replaceWith(figure);
  }
  const script = document.createElement('script');
  script.src = `${path_to_root}mermaid.min.js`;
  script.onload = () => {
    const dark = ['coal', 'navy', 'ayu'].some((theme) => document.documentElement.classList.contains(theme));
    mermaid.initialize({ startOnLoad: false, theme: dark ? 'dark' : 'default' });
    mermaid.run();
  };
  document.head.append(script);
})();
