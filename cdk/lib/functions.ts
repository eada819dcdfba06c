/** What the project says of its functions, read where it says it. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The project's folder. */
export const PROJECT = join(import.meta.dirname, '..', '..');

/** Folder, package, binary and deployed name of each function. */
export const FUNCTIONS = ['count', 'evaluate', 'create-target', 'poll-available', 'publish-ssm', 'redeploy'] as const;
export type FunctionName = (typeof FUNCTIONS)[number];

/** The state of a function: `create-target` is `CreateTarget`. Its constructs have that name too. */
export function stateOf(name: string): string {
  return name.replace(/(^|-)([a-z])/g, (_, _dash, letter: string) => letter.toUpperCase());
}

/** MB and seconds, as `cargo lambda deploy` would have them. */
export function lambdaSizing(name: FunctionName): { memory: number; timeout: number } {
  const file = join(PROJECT, 'functions', name, 'Cargo.toml');
  const section = readFileSync(file, 'utf8').split('[package.metadata.lambda.deploy]')[1] ?? '';
  const number = (key: string) => {
    const found = new RegExp(`^${key} = (\\d+)$`, 'm').exec(section)?.[1];
    if (found === undefined) throw new Error(`${file}: [package.metadata.lambda.deploy] has no ${key}`);
    return Number(found);
  };
  return { memory: number('memory'), timeout: number('timeout') };
}

/** The version of everything in the workspace. */
export function version(): string {
  const found = /^version = "([^"]+)"$/m.exec(readFileSync(join(PROJECT, 'Cargo.toml'), 'utf8'))?.[1];
  if (found === undefined) throw new Error('Cargo.toml: [workspace.package] has no version');
  return found;
}

/** The state machine's file, with its `${…}`. */
export function definition(): string {
  return readFileSync(join(PROJECT, 'statemachine', 'autoscale.asl.json'), 'utf8');
}
