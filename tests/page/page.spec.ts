// What an operator sees at `/`.
import { join } from 'node:path';
import { type Page } from '@playwright/test';
import { expect, findings, tabTo, test } from './fixtures.ts';
import { Service, TOKEN, targetId } from './service.ts';

const IMAGES = join(import.meta.dirname, '../../docs/images');
const SIZES = { desktop: { width: 1280, height: 800 }, phone: { width: 390, height: 844 } };

interface Target {
  mount_target_id: string;
  ip_address: string;
  availability_zone: string;
  up: boolean;
  failovers: number;
  operations: number;
  share_of_operations: number;
  failures: number;
  refused: number;
  bytes_read: number;
  bytes_written: number;
  share_of_bytes: number;
  latency_ms: { p50: number | null; p99: number | null };
}

const live = (page: Page) => expect(page.getByRole('status')).toHaveText('live');
const row = (page: Page, index: number) => page.locator('#targets tr').filter({ hasText: targetId(index) });

async function traffic(service: Service): Promise<void> {
  for (let file = 0; file < 24; file += 1) {
    await service.request('PUT', `/files/user/${file}/document`, 'x'.repeat(file));
    await service.get(`/files/user/${file}/document`);
  }
}

test('the numbers are those of /targets', async ({ page, service }) => {
  await traffic(service);
  await page.goto(service.url);
  await live(page);
  const { strategy, targets } = (await (await service.get('/targets')).json()) as {
    strategy: string;
    targets: Target[];
  };
  const percent = (share: number) => `${(share * 100).toFixed(1)} %`;
  const time = (ms: number | null) =>
    ms === null ? '–' : ms < 1 ? `${(ms * 1000).toFixed(0)} µs` : `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
  const expected = targets.map((target) => [
    `${target.mount_target_id}${target.ip_address}`,
    target.availability_zone,
    target.up ? 'up' : 'down',
    `${percent(target.share_of_operations)}${target.operations}`,
    `${percent(target.share_of_bytes)}${target.bytes_read} B read, ${target.bytes_written} B written`,
    time(target.latency_ms.p50),
    time(target.latency_ms.p99),
    `${target.failures}`,
    `${target.refused}`,
    `${target.failovers}`,
  ]);
  expect(targets.every((target) => target.operations > 0)).toBe(true);
  const shown = () =>
    page
      .locator('#targets tr')
      .evaluateAll((rows) =>
        rows.map((row) => [...row.children].map((cell) => cell.textContent?.replace(/\s+/g, ' ').trim())),
      );
  await expect.poll(shown).toEqual(expected);
  const operations = targets.reduce((sum, target) => sum + target.operations, 0);
  await expect(page.locator('#summary')).toContainText(strategy);
  await expect(page.locator('#latency-text')).toHaveText(new RegExp(`^${operations} operations`));
  // The bars say the same, for all targets and for one.
  const bars = () =>
    page
      .locator('#latency text[text-anchor]')
      .evaluateAll((texts) =>
        texts
          .filter((text) => Number(text.getAttribute('y')) < 140)
          .reduce((sum, text) => sum + Number(text.textContent), 0),
      );
  expect(await bars()).toBe(operations);
  await page.getByLabel('Mount target', { exact: true }).selectOption(targetId(1));
  expect(await bars()).toBe(targets[1]!.operations);
});

test('a mount target that is cut off is shown within 2 seconds, and its return too', async ({ page, service }) => {
  await page.goto(service.url);
  await live(page);
  await expect(page.getByRole('alert')).toHaveText('');
  service.cutOff(1);
  await expect(row(page, 1).locator('.health')).toContainText('is not there', { timeout: 2000 });
  await expect(page.getByRole('alert')).toHaveText(`Down: ${targetId(1)}`);
  await expect(row(page, 0).locator('.up')).toHaveText('up');
  await expect(row(page, 1).locator('td').last()).toHaveText('1');
  service.repair(1);
  await expect(row(page, 1).locator('.up')).toHaveText('up', { timeout: 2000 });
  await expect(page.getByRole('alert')).toHaveText('');
});

test.describe('when the service ends', () => {
  test.use({
    allowedOnConsole: /ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET/,
  });

  test('the page says that it is disconnected, and connects to the next one by itself', async ({ page, service }) => {
    await page.goto(service.url);
    await live(page);
    await service.stop();
    await expect(page.getByRole('status')).toContainText('disconnected');
    const next = await Service.start({ LISTEN: new URL(service.url).host });
    try {
      await expect(page.getByRole('status')).toHaveText('live', { timeout: 15_000 });
    } finally {
      await next.stop();
    }
  });
});

test('the route of a path is drawn, by keyboard alone', async ({ page, service }) => {
  await page.goto(service.url);
  await live(page);
  await tabTo(page, '#path');
  for (const path of ['user/1/document.pdf', 'a b/ü#1?x=%41&<b>']) {
    const url = `/route/${path.split('/').map(encodeURIComponent).join('/')}`;
    const route = (await (await service.get(url)).json()) as { target: Target; order: Target[] };
    await page.keyboard.press('ControlOrMeta+a');
    await page.keyboard.type(path);
    await page.keyboard.press('Enter');
    const place = page.locator('#route');
    await expect(place.locator('code').first()).toHaveText(path);
    await expect(place).toContainText(`goes to ${route.target.mount_target_id} by rendezvous`);
    const order = await place.getByRole('listitem').locator('code').allTextContents();
    expect(order).toEqual(route.order.map((target) => target.mount_target_id));
    await expect(place.getByRole('listitem').first()).toContainText('in use');
  }
});

test.describe('a path that is none', () => {
  test.use({ allowedOnConsole: /status of 400/ });

  test('is refused in words, and what is in a refused path is text', async ({ page, service }) => {
    await page.goto(service.url);
    await page.getByLabel('Path of a file').fill('a/../b');
    await page.getByRole('button', { name: 'Show' }).click();
    await expect(page.locator('#route')).toContainText('No route: ');
    const evil = encodeURIComponent('<img src=x onerror=document.title="gone">\u001b[31m\u202e');
    expect((await service.get(`/files/${evil}`)).status).toBe(404);
    await expect(page.locator('#errors')).toContainText('NotFound');
    await expect(page.locator('#errors')).toContainText('%3Cimg');
    expect(
      await page
        .locator('#errors')
        .evaluate((rows) => /[\u0000-\u001f\u007f-\u009f\u202a-\u202e]/.test(rows.textContent ?? '')),
    ).toBe(false);
    await expect(page.locator('img')).toHaveCount(0);
    await expect(page).toHaveTitle('Mount targets');
  });
});

test.describe('the policy for content', () => {
  test.use({ allowedOnConsole: /Content Security Policy/ });

  test('keeps an injected script, style, image and frame out', async ({ page, service }) => {
    await page.goto(service.url);
    const blocked = await page.evaluate(async () => {
      const directives = new Set<string>();
      document.addEventListener('securitypolicyviolation', (event) => directives.add(event.effectiveDirective));
      const add = (name: string, attributes: Record<string, string>, text = '') => {
        const made = document.createElement(name);
        for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
        made.textContent = text;
        document.body.append(made);
      };
      add('script', {}, 'document.title = "gone"');
      add('style', {}, 'body { display: none }');
      add('p', { onclick: 'document.title = "gone"' });
      add('img', { src: '/page.css' });
      add('iframe', { src: '/' });
      await fetch('http://127.0.0.9:9/').catch(() => {});
      await new Promise((resolve) => setTimeout(resolve, 200));
      return [...directives].sort();
    });
    expect(blocked).toEqual([
      'connect-src',
      'frame-src',
      'img-src',
      'script-src-attr',
      'script-src-elem',
      'style-src-elem',
    ]);
    await expect(page).toHaveTitle('Mount targets');
  });
});

test.describe('with a token', () => {
  test.use({ variables: { AUTH_TOKEN: TOKEN }, allowedOnConsole: /status of 401/ });

  test('it is given in a form, by keyboard alone, and never in an address', async ({ page, service, context }) => {
    const addresses: string[] = [];
    page.on('framenavigated', (frame) => addresses.push(frame.url()));
    expect((await page.goto(service.url))!.status()).toBe(401);
    await tabTo(page, '#token');
    await page.keyboard.type('not the token at all');
    await page.keyboard.press('Enter');
    await expect(page.getByRole('alert')).toContainText('not the token');
    await tabTo(page, '#token');
    await page.keyboard.type(TOKEN);
    await page.keyboard.press('Enter');
    await live(page);
    expect(new URL(page.url()).pathname).toBe('/');
    const [cookie, ...others] = await context.cookies();
    expect(others).toEqual([]);
    expect(cookie).toMatchObject({ name: 'efs-session', httpOnly: true, sameSite: 'Strict', path: '/', secure: false });
    expect(cookie!.value).not.toContain(TOKEN);
    expect(
      await page.evaluate(() => document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage)),
    ).toBe('{}{}');
    // It opens what the page asks for, and no file.
    const statuses = (paths: string[]) =>
      page.evaluate((paths) => Promise.all(paths.map(async (path) => (await fetch(path)).status)), paths);
    expect(await statuses(['/targets', '/route/a', '/openapi.json', '/files/a', '/list', '/metrics'])).toEqual([
      200, 200, 200, 401, 401, 401,
    ]);
    await page.reload();
    await live(page);
    await tabTo(page, 'form[action="/session/end"] button');
    await page.keyboard.press('Enter');
    await expect(page.getByLabel('Token of the service')).toBeVisible();
    expect(await context.cookies()).toEqual([]);
    expect(await statuses(['/targets'])).toEqual([401]);
    expect(addresses.filter((address) => address.includes(TOKEN))).toEqual([]);
  });
});

for (const [size, viewport] of Object.entries(SIZES))
  for (const colorScheme of ['light', 'dark'] as const)
    test.describe(`${size}, ${colorScheme}`, () => {
      test.use({ viewport, colorScheme, variables: { AUTH_TOKEN: TOKEN }, allowedOnConsole: /status of 401/ });

      test('form and page have no findings of axe, and fit', async ({ page, service }, { outputDir }) => {
        const fits = async () => {
          const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          expect(wide, 'pixels beside the window').toBeLessThanOrEqual(0);
        };
        await page.goto(service.url);
        expect(await findings(page)).toEqual([]);
        await fits();
        await page.getByLabel('Token of the service').fill(TOKEN);
        await page.getByRole('button', { name: 'Sign in' }).click();
        await live(page);
        await traffic(service);
        await service.get('/files/no/such/file');
        service.cutOff(1);
        await page.getByLabel('Path of a file').fill('user/1/document');
        await page.getByRole('button', { name: 'Show' }).click();
        await expect(page.locator('#route li')).toHaveCount(3);
        await expect(page.getByRole('alert')).toContainText(targetId(1));
        await expect(page.locator('#errors')).toContainText('NotFound');
        expect(await findings(page)).toEqual([]);
        await fits();
        const folder = process.env.UPDATE_IMAGES ? IMAGES : outputDir;
        await page.evaluate(() => {
          (document.activeElement as HTMLElement).blur();
          scrollTo(0, 0);
        });
        await page.screenshot({ path: join(folder, `page-${size}-${colorScheme}.png`), fullPage: size === 'phone' });
        // WCAG 2.2, 1.4.10: no scrolling in two directions at 320 pixels.
        await page.setViewportSize({ width: 320, height: 640 });
        await fits();
      });
    });
