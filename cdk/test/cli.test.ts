/** The app as the command line has it. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { binaries, temporary } from './world.ts';

const CDK = join(import.meta.dirname, '..');
const BIN = join(CDK, 'node_modules', '.bin');

/** Nothing of an account, and no file of the user's. */
function nobody() {
  const home = temporary();
  const config = join(home, 'config.json');
  writeFileSync(config, '{}');
  const proxy = 'http://127.0.0.1:9';
  return {
    config,
    env: {
      PATH: process.env['PATH'],
      HOME: home,
      CI: '1',
      HTTPS_PROXY: proxy,
      HTTP_PROXY: proxy,
      AWS_EC2_METADATA_DISABLED: 'true',
    },
  };
}

/** A namespace without a network, where the machine has them; elsewhere the proxy above leads nowhere. */
const ALONE = spawnSync('unshare', ['-rn', 'true']).status === 0 ? ['unshare', '-rn'] : [];

test('cdk synth needs no account, no credentials and no network', () => {
  const { config, env } = nobody();
  const out = temporary();
  const settings = ['-c', `config=${config}`, '-c', `pipeline.binaries=${binaries()}`, '-c', 'stack.name=files'];
  const [program = '', ...first] = [...ALONE, join(BIN, 'cdk'), 'synth', '--quiet', '--output', out, ...settings];
  const { status, stderr, stdout } = spawnSync(program, first, { cwd: CDK, env, encoding: 'utf8', timeout: 80_000 });
  assert.equal(status, 0, stdout + stderr);
  const types = (stack: string) => {
    const { Resources } = JSON.parse(readFileSync(join(out, `${stack}.template.json`), 'utf8'));
    return Object.values<any>(Resources).map(({ Type }) => Type);
  };
  assert.equal(types('files-data').filter((type) => type === 'AWS::EC2::Subnet').length, 3);
  assert(types('files').includes('AWS::StepFunctions::StateMachine'));
});

test('a setting that is wrong ends the app with status 2, and is named', () => {
  const { config, env } = nobody();
  const run = (context: Record<string, string>) =>
    spawnSync(join(BIN, 'tsx'), ['bin/efs-autoscale.ts'], {
      cwd: CDK,
      env: {
        ...env,
        // The functions' binaries come first where nothing is made of the service's.
        CDK_CONTEXT_JSON: JSON.stringify({ config, 'service.image': '{"uri":"example.com/router"}', ...context }),
        CDK_OUTDIR: temporary(),
      },
      encoding: 'utf8',
      timeout: 80_000,
    });
  const wrong = run({ 'scaling.threshold': 'many', 'pipeline.scale': 'huge' });
  assert.equal(wrong.status, 2, wrong.stderr);
  assert.match(wrong.stderr, /^The settings cannot stay as they are:\nscaling\.threshold: .*\npipeline\.scale: .*\n$/);
  const unbuilt = run({ 'pipeline.binaries': temporary() });
  assert.equal(unbuilt.status, 2, unbuilt.stderr);
  assert.match(
    unbuilt.stderr,
    /pipeline\.binaries: there is no .*\/count\/bootstrap; `make build-lambda ARM=1` builds it/,
  );
  // Of this machine's own kind of program, one is for the other processor.
  const other = process.arch === 'arm64' ? 'x86_64' : 'arm64';
  const binaries = temporary();
  mkdirSync(join(binaries, 'count'));
  copyFileSync(process.execPath, join(binaries, 'count', 'bootstrap'));
  const mixed = run({ 'pipeline.binaries': binaries, 'pipeline.architecture': other });
  assert.equal(mixed.status, 2, mixed.stderr);
  assert.match(mixed.stderr, new RegExp(`pipeline\\.architecture: it is ${other}, and .*count/bootstrap is for `));
});

test('the name of the stack is that of the settings, for what looks at the stack before CDK does', () => {
  const { env } = nobody();
  const name = (SET: string) => {
    const options = { cwd: CDK, env: { ...env, SET }, encoding: 'utf8', timeout: 80_000 } as const;
    return spawnSync(join(BIN, 'tsx'), ['bin/name.ts'], options);
  };
  assert.equal(name('pipeline.schedule=rate(10 minutes) stack.name=files').stdout, 'files\n');
  const wrong = name('threshold');
  assert.deepEqual([wrong.status, wrong.stdout], [2, '']);
  assert.match(wrong.stderr, /SET: threshold: expected settings/);
});
