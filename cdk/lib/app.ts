/** The app around the two stacks: the library's advised behaviour, and the checks of every synthesis. */
import { App, Aspects, Validations } from 'aws-cdk-lib';
import flags from 'aws-cdk-lib/recommended-feature-flags.json' with { type: 'json' };
import { AwsSolutionsChecks } from 'cdk-nag';
import { join } from 'node:path';
import { check, read, type Config, type Given } from './config.ts';
import { Data, makesData } from './data.ts';
import { SkipUnsupported } from './local.ts';
import { applyPlatform } from './platform.ts';
import { System } from './system.ts';

const ADVISED = {
  ...flags,
  // It would need a function of its own, to empty a security group that nothing is in.
  '@aws-cdk/aws-ec2:restrictDefaultSecurityGroup': false,
  // Says to AWS how the library is used.
  '@aws-cdk/core:enableAdditionalMetadataCollection': false,
};

function make(app: App, config: Config) {
  const data = makesData(config) ? new Data(app, config) : undefined;
  const system = new System(app, config, data);
  applyPlatform(app, config);
  if (config.local) Aspects.of(app).add(new SkipUnsupported(config.local.fails));
  Validations.of(app).addPlugins(new AwsSolutionsChecks(app));
  return { app, data, system };
}

/** By the settings of `config.json` and of the command line. */
export function fromSettings() {
  const app = new App({ context: ADVISED });
  return make(app, read(app.node, join(import.meta.dirname, '..')));
}

/** By these settings and no others. */
export function withSettings(given: Given = {}, outdir?: string) {
  return make(new App({ context: ADVISED, outdir }), check(given));
}
