// The documents: links, commands, names of tests and files, diagrams, the picture. `make test-docs` runs it.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, normalize, relative } from 'node:path';
import { pathToFileURL } from 'node:url';

const PROJECT = join(import.meta.dirname, '..', '..');
const read = (path) => readFileSync(join(PROJECT, path), 'utf8');
const walk = (folder, keep) =>
  readdirSync(join(PROJECT, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (['node_modules', 'target', '.git', 'cdk.out'].includes(entry.name)) return [];
    return entry.isDirectory() ? walk(path, keep) : keep(path) ? [path] : [];
  });

const DOCUMENTS = walk('', (path) => path.endsWith('.md')).map((path) => ({ path, text: read(path) }));
// History keeps the names of its time.
const CURRENT = DOCUMENTS.filter(({ path }) => path !== 'CHANGELOG.md');
const SOURCES = ['crates', 'functions', 'tests', 'cdk'].flatMap((folder) =>
  walk(folder, (path) => /\.(rs|ts)$/.test(path)).map((path) => ({ path, text: read(path) })),
);

const FENCE = /^( *)(```+)(\w*)[^\n]*\n([\s\S]*?)^\1\2`*[ ]*$/gm;
const blocks = (text) => [...text.matchAll(FENCE)].map(([, , , language, body]) => ({ language, body }));
const withoutBlocks = (text) => text.replace(FENCE, '');
// One line break is allowed within a span.
const spans = (text) => [...withoutBlocks(text).matchAll(/(?<!`)`([^`]+?)`(?!`)/g)].map(([, span]) => span.replace(/\n */, ' '));
/** Inline code and the lines of shell blocks. */
const commands = (text) => [
  ...spans(text),
  ...blocks(text)
    .filter(({ language }) => ['', 'sh', 'bash'].includes(language))
    .flatMap(({ body }) => body.replaceAll('\\\n', ' ').split('\n')),
];
const fail = (problems) => assert.deepEqual(problems, []);

/** The anchors of a document, as GitHub makes them. */
function anchors(text) {
  const seen = new Map();
  return [...withoutBlocks(text).matchAll(/^#{1,6} +(.+?) *#*$/gm)].map(([, title]) => {
    const plain = title.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase();
    const slug = plain.replace(/[^\p{L}\p{N}\p{M} _-]/gu, '').replaceAll(' ', '-');
    const count = seen.get(slug) ?? 0;
    seen.set(slug, count + 1);
    return count ? `${slug}-${count}` : slug;
  });
}

test('every relative link leads to a file, and every anchor to a heading', () => {
  const problems = [];
  for (const { path, text } of DOCUMENTS) {
    const prose = withoutBlocks(text).replace(/`[^`]*`/g, (code) => code.replaceAll('](', '] ('));
    for (const [, target] of prose.matchAll(/\]\(([^()\s]+)(?: "[^"]*")?\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      const [file, anchor] = target.split('#');
      const to = file ? normalize(join(dirname(path), file)) : path;
      if (!existsSync(join(PROJECT, to))) problems.push(`${path}: ${target}: no such file`);
      else if (anchor && !(to.endsWith('.md') && anchors(read(to)).includes(anchor)))
        problems.push(`${path}: ${target}: no such heading`);
    }
  }
  fail(problems);
});

test('every make target and variable that a document names exists', () => {
  const makefile = read('Makefile');
  const targets = new Set([...makefile.matchAll(/^([a-z][a-z0-9-]*):/gm)].map(([, name]) => name));
  const settings = read('docs/reference/settings.md');
  const problems = [];
  for (const { path, text } of CURRENT)
    for (const command of commands(text))
      for (const [, words] of command.matchAll(/(?:^|[\s(])(?:nice )?make((?: +(?:[A-Z0-9_]+=(?:"[^"]*"|'[^']*'|[^\s"']+)|[a-z][a-z0-9-]*\b(?![.=\/])))+)/g)) {
        for (const [word] of words.matchAll(/[A-Z0-9_]+=(?:"[^"]*"|'[^']*'|\S+)|[a-z][a-z0-9-]*/g)) {
          const [, variable, value] = /^([A-Z0-9_]+)=(.*)$/s.exec(word) ?? [];
          if (!variable && !targets.has(word)) problems.push(`${path}: make ${word}`);
          if (variable && !new RegExp(`\\b${variable}\\b`).test(makefile)) problems.push(`${path}: make ${variable}=`);
          if (variable === 'SET')
            for (const [, name] of value.matchAll(/\b([a-z]+\.[a-zA-Z]+)=/g))
              if (!settings.includes(`| \`${name}\` |`)) problems.push(`${path}: the setting ${name}`);
        }
      }
  fail(problems);
});

/** The subcommands of the enum with this name in a source of clap. */
function subcommands(source, name) {
  const body = new RegExp(`enum ${name} \\{\\n([\\s\\S]*?)^\\}`, 'm').exec(source)?.[1] ?? '';
  return [...body.matchAll(/^ {4}([A-Z]\w*)/gm)].map(([, variant]) =>
    variant.replace(/(?<!^)([A-Z])/g, '-$1').toLowerCase(),
  );
}

test('every command of efs-autoscale and file-service that a document names exists, with its options', () => {
  const source = (program) => SOURCES.filter(({ text }) => text.includes(`name = "${program}"`)).map(({ text }) => text).join('\n');
  const programs = {
    'efs-autoscale': subcommands(source('efs-autoscale'), 'Command'),
    'efs-autoscale local': subcommands(source('efs-autoscale local'), 'Command'),
    'file-service': subcommands(source('file-service'), 'Command'),
  };
  for (const [program, found] of Object.entries(programs)) assert(found.length > 1, `no commands of ${program} found`);
  const options = new Set(['help', 'version', ...SOURCES.flatMap(({ text }) => {
    const fields = text.matchAll(/#\[arg\(([^\]]*?\blong\b[^\]]*)\)\]\s*(?:pub )?(\w+):/g);
    return [...fields].map(([, argument, field]) => /long = "([\w-]+)"/.exec(argument)?.[1] ?? field.replaceAll('_', '-'));
  })]);
  const problems = [];
  for (const { path, text } of CURRENT)
    for (const command of commands(text))
      for (const [, program, first, second, rest] of command.matchAll(
        /(?:^|[\s/"])(efs-autoscale|file-service)(?: ([a-z][a-z-]*))?(?: ([a-z]+))?([^#\n]*)/g,
      )) {
        if (!first) continue;
        const known = first === 'local' && program === 'efs-autoscale' ? second === undefined || programs['efs-autoscale local'].includes(second) : programs[program].includes(first);
        if (!known) problems.push(`${path}: ${program} ${first}${first === 'local' ? ` ${second}` : ''}`);
        for (const [, option] of rest.matchAll(/(?:^|\s)--([a-z][a-z-]*)/g))
          if (!options.has(option)) problems.push(`${path}: ${program} ${first} --${option}`);
      }
  fail(problems);
});

test('every crate and test binary that a cargo command names exists', () => {
  const problems = [];
  for (const { path, text } of CURRENT)
    for (const command of commands(text).filter((command) => /\bcargo\b/.test(command))) {
      const crate = / -p ([a-z0-9-]+)\b/.exec(command)?.[1];
      const folder = ['crates', 'functions', '.'].map((folder) => join(folder, crate ?? '')).find((folder) => existsSync(join(PROJECT, folder, 'Cargo.toml')));
      if (crate && !folder) problems.push(`${path}: -p ${crate}`);
      const binary = / --test ([a-z0-9_]+)/.exec(command)?.[1];
      if (folder && binary && !existsSync(join(PROJECT, folder, 'tests', `${binary}.rs`))) problems.push(`${path}: --test ${binary}`);
    }
  fail(problems);
});

test('every test that a document names exists, in a file that is named beside it', () => {
  const functions = new Set(SOURCES.flatMap(({ text }) => [...text.matchAll(/\bfn (\w+)/g)].map(([, name]) => name)));
  const problems = [];
  for (const { path, text } of CURRENT)
    for (const span of spans(text)) {
      const name = /^(?:\w+::)*([a-z][a-z0-9]*(?:_[a-z0-9]+){3,}_?)(…?)$/.exec(span);
      if (!name) continue;
      const [, begin, isCut] = name;
      const exists = isCut ? [...functions].some((one) => one.startsWith(begin)) : functions.has(begin);
      if (!exists && !SOURCES.some(({ text }) => text.includes(`"${begin}"`))) problems.push(`${path}: ${span}`);
    }
  // The tests of cdk/ are sentences.
  for (const [, sentence, file] of read('ARCHITECTURE.md').matchAll(/`([^`_]+ [^`_]+)` in `(cdk\/test\/[^`]+)`/g))
    if (!read(file).includes(sentence)) problems.push(`ARCHITECTURE.md: ${sentence}`);
  fail(problems);
});

test('every file that a document names in code exists', () => {
  const problems = [];
  const placeholder = /NAME|my-step|my_strategy|percent_io_limit/;
  for (const { path, text } of CURRENT)
    for (const span of spans(text)) {
      if (!/^(crates|functions|cdk|tests|docs|statemachine)\/[\w.\/-]+$/.test(span) || placeholder.test(span)) continue;
      // Built, or installed.
      if (/^cdk\/(cdk\.out|config\.json|node_modules)/.test(span)) continue;
      if (!existsSync(join(PROJECT, span))) problems.push(`${path}: ${span}`);
    }
  fail(problems);
});

test('every mermaid diagram parses', async () => {
  const modules = createRequire(join(PROJECT, 'cdk', 'package.json'));
  const mermaidPath = modules.resolve('mermaid');
  // Only its parser is used: what cleans HTML for a browser has nothing to do, and needs none.
  const purifyFolder = dirname(createRequire(mermaidPath).resolve('dompurify'));
  const { default: purify } = await import(pathToFileURL(join(purifyFolder, 'purify.es.mjs')).href);
  purify.addHook ??= () => {};
  purify.sanitize ??= (text) => text;
  const { default: mermaid } = await import(pathToFileURL(mermaidPath).href);
  await assert.rejects(mermaid.parse('sequenceDiagram\n A->>B'), 'the parser refuses what is no diagram');
  let count = 0;
  for (const { path, text } of DOCUMENTS)
    for (const { body } of blocks(text).filter(({ language }) => language === 'mermaid')) {
      count += 1;
      await assert.doesNotReject(mermaid.parse(body), `${path}: a diagram that begins with ${body.split('\n')[0]}`);
    }
  assert(count >= 4, `${count} diagrams`);
});

test('the layer diagram has the dependencies of the crates', () => {
  const folders = ['crates', 'functions'].flatMap((folder) => readdirSync(join(PROJECT, folder)).map((name) => join(folder, name)));
  const nameOf = (folder) => (folder.startsWith('functions/') ? 'functions/*' : folder.replace('crates/', ''));
  const crates = new Set(folders.map(nameOf));
  const real = new Set();
  for (const folder of folders) {
    const section = /^\[dependencies\]\n([\s\S]*?)(?=^\[|$(?![\s\S]))/m.exec(read(join(folder, 'Cargo.toml')))?.[1] ?? '';
    for (const [, name] of section.matchAll(/^([a-z0-9-]+)(?=\.| =)/gm)) if (crates.has(name)) real.add(`${nameOf(folder)} ${name}`);
  }
  const diagram = blocks(read('ARCHITECTURE.md')).find(({ body }) => body.startsWith('flowchart TD')).body;
  const label = new Map([...diagram.matchAll(/^ +(\w+)\["([^":]+)[^"]*"\]$/gm)].map(([, id, name]) => [id, name]));
  const drawn = [...diagram.matchAll(/^ +(\w+) (?:-->|-\. "[^"]*" \.->) ([\w &]+)$/gm)].flatMap(([, from, to]) =>
    to.split(' & ').map((one) => [label.get(from), label.get(one)]),
  );
  const reaches = (from, to) => drawn.some(([a, b]) => a === from && (b === to || reaches(b, to)));
  fail([
    ...[...crates].filter((crate) => ![...label.values()].includes(crate)).map((crate) => `${crate} is not in the diagram`),
    ...drawn.map((edge) => edge.join(' ')).filter((edge) => !real.has(edge)).map((edge) => `${edge}: no such dependency`),
    ...[...real].filter((edge) => !reaches(...edge.split(' '))).map((edge) => `${edge}: not in the diagram`),
  ]);
});

test('the book has every document below docs/', () => {
  const summary = read('docs/SUMMARY.md');
  const missing = DOCUMENTS.map(({ path }) => path)
    .filter((path) => path.startsWith('docs/') && path !== 'docs/SUMMARY.md')
    .filter((path) => !summary.includes(`](${relative('docs', path)})`));
  fail(missing);
});

test('README.ja.md has the commands and the links of README.md', () => {
  const shell = (text) =>
    blocks(text)
      .filter(({ language }) => language === 'sh')
      .map(({ body }) => body.split('\n').map((line) => line.replace(/ +#.*$/, '').trimEnd()));
  const files = (text) => new Set([...text.matchAll(/\]\(([^()\s#]+)/g)].map(([, target]) => target));
  const [english, japanese] = [read('README.md'), read('README.ja.md')];
  assert.deepEqual(shell(japanese), shell(english));
  const missing = [...files(english)].filter((file) => file !== 'README.ja.md' && !files(japanese).has(file));
  assert.deepEqual(missing, []);
});

test('the picture of a run is drawn from its transcript', () => {
  execFileSync('python3', [join(import.meta.dirname, 'picture.py'), 'check'], { stdio: 'pipe' });
});
