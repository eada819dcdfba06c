/** The CDK app. `cdk.json` says how it is run. */
import { fromSettings } from '../lib/app.ts';
import { ConfigError } from '../lib/config.ts';

try {
  fromSettings();
} catch (error) {
  if (!(error instanceof ConfigError)) throw error;
  console.error(`The settings cannot stay as they are:\n${error.message}`);
  process.exit(2);
}
