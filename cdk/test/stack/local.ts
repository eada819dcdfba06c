import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UNSUPPORTED_LOCALLY } from '../../lib/local.ts';
import { World, world } from '../world.ts';

test('for the emulator, what it does not know is left out, with whatever names it, and nothing else', () => {
  const it = new World({ local: { endpoint: 'http://localhost:4566', directory: '/tmp/files' } });
  const whole = world('default');
  const createLogGroup = new Set(it.resources.map(({ id }) => id));
  const kind = ({ type, is }: (typeof whole.resources)[number]) =>
    type === 'AWS::CloudWatch::Alarm' && is.Metrics ? `${type} of metric math` : type;
  for (const one of whole.resources)
    assert.equal(createLogGroup.has(one.id), !UNSUPPORTED_LOCALLY.includes(kind(one)), one.path);
  assert(it.resources.length < whole.resources.length);
  const text = JSON.stringify(it.template);
  const named = [...text.matchAll(/"Ref":"(\w+)"|"Fn::GetAtt":\["(\w+)"/g)].map(
    ([, ref, attribute]) => ref ?? attribute ?? '',
  );
  for (const { DependsOn } of Object.values<any>(it.template.Resources)) named.push(...[DependsOn ?? []].flat());
  const parameters = Object.keys(it.template.Parameters ?? {});
  assert.deepEqual(
    named.filter((name) => !createLogGroup.has(name) && !parameters.includes(name)),
    [],
  );
  const { TARGET_DIRECTORY, AWS_ENDPOINT_URL } = it.at('Pipeline/Count').Environment.Variables;
  assert.deepEqual([TARGET_DIRECTORY, AWS_ENDPOINT_URL], ['/tmp/files', 'http://localhost:4566']);
  assert.equal(whole.at('Pipeline/Count').Environment.Variables.AWS_ENDPOINT_URL, undefined);
});
