/** What `make` gives to the programs it starts: what stands on its command line, and nothing that happens to be in the environment. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';

/** Of somebody's shell: a WSL has a NAME, a build system may have any of the others. */
const ENVIRONMENT = { NAME: 'host', DATA: '1', YES: '1', REGION: 'eu-west-9' };

/** The lines that the target would run, but for what builds. */
function lines(target: string, ...args: string[]): string {
  const { PATH, HOME } = process.env;
  const makeRun = spawnSync('make', ['--dry-run', target, ...args], {
    cwd: join(import.meta.dirname, '..', '..'),
    env: { PATH, HOME, ...ENVIRONMENT },
    encoding: 'utf8',
  });
  assert.equal(makeRun.status, 0, makeRun.stderr);
  return makeRun.stdout;
}

test('a stack, its files, an answer and a region are named on the command line of make', () => {
  for (const target of ['deploy', 'diff', 'destroy', 'probe']) {
    const unsaid = lines(target);
    assert.match(unsaid, /stack=\$\(cd cdk && node_modules\/\.bin\/tsx bin\/name\.ts\)/, target);
    assert.doesNotMatch(unsaid, /--data|--yes|\$NAME|\$REGION|AWS_REGION/, target);
    for (const name of Object.keys(ENVIRONMENT)) {
      assert.match(unsaid, new RegExp(`echo '${name} of the environment is not used; .*' >&2`), target);
    }
    const said = lines(target, 'NAME=files', 'DATA=1', 'YES=1', 'REGION=eu-west-1');
    assert.doesNotMatch(said, /not used/, target);
    assert.match(said, /export AWS_REGION="\$REGION" AWS_DEFAULT_REGION="\$REGION" && stack="\$NAME"/, target);
  }
  assert.match(lines('destroy', 'DATA=1', 'YES=1'), /teardown --stack "\$stack" --yes --data/);
  assert.doesNotMatch(lines('deploy'), /deploy --all --require-approval never/);
  assert.match(lines('deploy', 'YES=1'), /deploy --all --require-approval never/);
});

test('one name is looked for and deployed, whatever SET says', () => {
  for (const args of [[], ['NAME=files'], ['SET=stack.name=others', 'NAME=files']]) {
    const deploy = lines('deploy', ...args);
    assert.match(deploy, /preflight --stack "\$stack" --json/);
    assert.match(deploy, /-c "stack\.name=\$stack"/);
  }
});
