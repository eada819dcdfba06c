// A page over a service of its own, which says nothing on the console and asks nobody else.
import { type Page, test as base, expect } from '@playwright/test';
import axe from 'axe-core';
import { CHROMIUM } from './playwright.config.ts';
import { Service } from './service.ts';

interface Fixtures {
  /** Variables of the service. */
  variables: Record<string, string>;
  service: Service;
  /** What the console may say: a browser logs each answer from 400 on, and each lost connection. */
  allowedOnConsole: RegExp;
  watched: void;
}

export const test = base.extend<Fixtures>({
  variables: [{}, { option: true }],
  allowedOnConsole: [/(?!)/, { option: true }],
  service: async ({ variables }, use) => {
    const service = await Service.start(variables);
    await use(service);
    await service.stop();
  },
  watched: [
    async ({ page, service, allowedOnConsole }, use) => {
      const said: string[] = [];
      const asked = new Set<string>();
      page.on('console', (message) => {
        if (['error', 'warning'].includes(message.type())) said.push(message.text());
      });
      page.on('pageerror', (error) => said.push(String(error)));
      page.on('request', (request) => {
        const { protocol, origin } = new URL(request.url());
        if (protocol !== 'data:') asked.add(origin);
      });
      await use();
      expect(
        said.filter((text) => !allowedOnConsole.test(text)),
        'the console',
      ).toEqual([]);
      expect(
        [...asked].filter((origin) => origin !== service.url),
        'other hosts',
      ).toEqual([]);
    },
    { auto: true },
  ],
});

// As with the other packages that `make packages` installs.
if (!CHROMIUM && process.env.CI === 'true') throw new Error('CI has to have chromium: apt-get install chromium');
test.skip(!CHROMIUM, 'there is no chromium');

/** Findings of axe, with the elements. */
export async function findings(page: Page): Promise<string[]> {
  // By the debugger, which a Content-Security-Policy does not bind.
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => (globalThis as unknown as { axe: typeof axe }).axe.run());
  return violations.flatMap(({ id, help, nodes }) => nodes.map(({ target }) => `${id}: ${help}: ${target.join(' ')}`));
}

/** Moves the focus by Tab until it is on `selector`, and says how often. */
export async function tabTo(page: Page, selector: string): Promise<number> {
  for (let steps = 1; steps <= 30; steps += 1) {
    await page.keyboard.press('Tab');
    const focused = await page.evaluate((selector) => document.activeElement?.matches(selector) ?? false, selector);
    if (focused) return steps;
  }
  throw new Error(`Tab does not lead to ${selector}`);
}

export { expect };
