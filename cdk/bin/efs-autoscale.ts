/** The CDK app. `cdk.json` says how it is run. */
import { fromSettings } from '../lib/app.ts';
import { ConfigError } from '../lib/config.ts';

try {
  fromSettings();
} catch (why) {
  if (!(why instanceof ConfigError)) throw why;
  console.error(`The settings cannot stay as they are:\n${why.message}`);
  process.exit(2);
}
