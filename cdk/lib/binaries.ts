/** What is deployed was built before: by cargo-lambda, for one processor. */
import { closeSync, existsSync, openSync, readSync } from 'node:fs';
import { resolve } from 'node:path';
import { ConfigError, type Config } from './config.ts';
import { PROJECT, type FunctionName } from './functions.ts';

/** The folder of a binary, which has to be for the processor that the functions and the tasks are to have. */
export function binary(name: FunctionName | 'file-service', config: Config): string {
  const folder = resolve(PROJECT, config.pipeline.binaries, name);
  const file = resolve(folder, 'bootstrap');
  const wanted = config.pipeline.architecture;
  const build = `\`make ${name === 'file-service' ? 'build-image' : 'build-lambda'}${wanted === 'arm64' ? ' ARM=1' : ''}\``;
  if (!existsSync(file)) throw new ConfigError(`pipeline.binaries: there is no ${file}; ${build} builds it`);
  const found = machineOf(file);
  if (found !== undefined && found !== wanted) {
    throw new ConfigError(
      `pipeline.architecture: it is ${wanted}, and ${file} is for ${found}; ${build} builds one for ${wanted}`,
    );
  }
  return folder;
}

/** The processor that an ELF file is for, by its header; nothing of another file. */
function machineOf(file: string): string | undefined {
  const header = Buffer.alloc(20);
  const open = openSync(file, 'r');
  readSync(open, header);
  closeSync(open);
  if (header.readUInt32BE(0) !== 0x7f454c46) return undefined;
  const known: Record<number, string> = { 0x3e: 'x86_64', 0xb7: 'arm64' };
  const machine = header.readUInt16LE(18);
  return known[machine] ?? `another processor (${machine})`;
}
