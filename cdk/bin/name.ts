/** The name of the stack, by the settings that `make deploy` would use: SET, then `config.json`, then the default. */
import { join } from 'node:path';
import { App } from 'aws-cdk-lib';
import { ConfigError, read } from '../lib/config.ts';

try {
  const app = new App({ context: { set: process.env['SET'] ?? '' } });
  console.log(read(app.node, join(import.meta.dirname, '..')).stack.name);
} catch (error) {
  if (!(error instanceof ConfigError)) throw error;
  console.error(`The settings cannot stay as they are:\n${error.message}`);
  process.exit(2);
}
