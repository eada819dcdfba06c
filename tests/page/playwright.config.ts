import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { defineConfig } from '@playwright/test';

/** Debian's browser: Playwright downloads none. */
export const CHROMIUM = (process.env.PATH ?? '')
  .split(delimiter)
  .map((folder) => join(folder, 'chromium'))
  .find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });

if (!CHROMIUM && !process.env.TEST_WORKER_INDEX)
  console.error('the tests of the page are skipped: apt-get install chromium');

export default defineConfig({
  testDir: '.',
  outputDir: '../../target/page',
  // A test that hangs is ended, not waited for.
  timeout: 30_000,
  globalTimeout: 180_000,
  fullyParallel: true,
  workers: 2,
  forbidOnly: true,
  reporter: 'list',
  use: {
    browserName: 'chromium',
    launchOptions: { executablePath: CHROMIUM },
    trace: 'retain-on-failure',
  },
});
