/** The table of all settings in `docs/reference/settings.md`, made from what checks them. */
import { z } from 'zod';
import { Schema } from './config.ts';

interface Property {
  readonly type?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly anyOf?: readonly Property[];
  readonly minimum?: number;
  readonly maximum?: number;
  readonly properties?: Record<string, Property>;
}

/** What may be said, where it is not plain from the default. */
function values({ enum: words, anyOf, minimum, maximum }: Property): string {
  const each = words ?? anyOf?.map((one) => one.const);
  if (each) return each.map((one) => `\`${one}\``).join(', ');
  if (minimum === undefined || maximum === undefined) return '';
  return maximum === Number.MAX_SAFE_INTEGER ? `${minimum} or more` : `${minimum} to ${maximum.toLocaleString('en')}`;
}

/** In Markdown: a row for each setting, but for those that programs give. */
export function settingsTable(): string {
  const schema = z.toJSONSchema(Schema, { io: 'input' }) as Property;
  const rows = Object.entries(schema.properties ?? {})
    .filter(([group]) => !['account', 'local'].includes(group))
    .flatMap(([group, { properties }]) =>
      Object.entries(properties ?? {}).map(([name, property]) => {
        const text = JSON.stringify(property.default ?? '').replaceAll('"', '');
        const given = text === '' || text === '[]' ? 'none' : `\`${text}\``;
        return `| \`${group}.${name}\` | ${given} | ${values(property)} | ${property.description ?? ''} |`;
      }),
    );
  return ['| setting | default | values | |', '|---|---|---|---|', ...rows].join('\n');
}
