/** Every alarm has its runbook in `docs/reference/codes.md`, and says where it is. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { PROJECT } from '../../lib/functions.ts';
import { runbook } from '../../lib/observability.ts';
import { NAMES, world } from '../world.ts';

/** The headings of the document's section of alarms. */
function documented(): string[] {
  const document = readFileSync(join(PROJECT, 'docs/reference/codes.md'), 'utf8');
  const [, section = ''] = /^## Alarms\n(.*?)^## /ms.exec(document) ?? [];
  return [...section.matchAll(/^### (\w+)$/gm)].map(([, id = '']) => id);
}

test('every alarm has a runbook, and every runbook its alarm', () => {
  const templates = new Set<string>();
  for (const name of NAMES) {
    for (const { path, is } of world(name).all('CloudWatch::Alarm')) {
      const id = path.replace(/^Observability\//, '');
      templates.add(id);
      assert(is.AlarmDescription.endsWith(`. ${runbook(id)}`), `${name}: ${is.AlarmDescription}`);
      assert(is.AlarmDescription.length <= 1024, `${name}: ${id}: CloudWatch's limit`);
    }
  }
  assert.deepEqual([...templates].sort(), documented().sort());
});

test('what EventBridge tells the topic of tasks that do not start has its runbook', () => {
  const it = world('default');
  const [{ InputTransformer }] = it.one('Events::Rule').Targets;
  const text = it.text(InputTransformer.InputTemplate);
  assert(text.endsWith(`. ${runbook('TaskLaunchFailed')}"`), text);
  const fields = Object.values(InputTransformer.InputPathsMap).sort();
  assert.deepEqual(fields, ['$.detail.eventName', '$.detail.reason', '$.time']);
});
