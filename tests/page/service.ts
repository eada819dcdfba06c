// The file service in a process of its own, over a directory of this machine that stands for each mount target.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

export const TOKEN = 'a-token-of-the-tests';
const TARGETS = 3;

export class Service {
  private constructor(
    private readonly child: ChildProcess,
    private readonly folder: string,
    readonly url: string,
  ) {}

  static async start(variables: Record<string, string> = {}): Promise<Service> {
    const program = process.env.FILE_SERVICE;
    if (!program) throw new Error('FILE_SERVICE is to be the program file-service; make test-page sets it');
    const folder = mkdtempSync(join(tmpdir(), 'page-'));
    mkdirSync(join(folder, 'root'));
    mkdirSync(join(folder, 'mnt'));
    const targets = Array.from({ length: TARGETS }, (_, index) => {
      symlinkSync('../root', join(folder, 'mnt', `efs-${index}`));
      return {
        mount_target_id: targetId(index),
        ip_address: `127.0.0.${index + 2}`,
        availability_zone: `ap-northeast-1${'abc'[index]}`,
        subnet_id: `subnet-0000000${index}`,
      };
    });
    writeFileSync(join(folder, 'targets.json'), JSON.stringify({ mount_targets: targets }));
    const child = spawn(program, ['serve'], {
      env: {
        TARGETS_FILE: join(folder, 'targets.json'),
        MOUNT_BASE: join(folder, 'mnt'),
        LISTEN: '127.0.0.1:0',
        SYNC: 'never',
        // Two failed probes take a mount target out of use; the page has 2 seconds to show it.
        PROBE_SECONDS: '0.2',
        ...variables,
      },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const lines: string[] = [];
    for await (const line of createInterface({ input: child.stdout! })) {
      lines.push(line);
      const { message, address } = JSON.parse(line);
      if (message !== 'ready') continue;
      child.stdout!.resume();
      return new Service(child, folder, `http://${address}`);
    }
    throw new Error(`file-service does not start: ${lines.join('\n')}`);
  }

  get(path: string): Promise<Response> {
    return this.request('GET', path);
  }

  request(method: string, path: string, body?: string): Promise<Response> {
    return fetch(this.url + path, { method, body, headers: { authorization: `Bearer ${TOKEN}` } });
  }

  /** What stands for a mount target is gone: its probes find no directory. */
  cutOff(index: number): void {
    unlinkSync(join(this.folder, 'mnt', `efs-${index}`));
  }

  repair(index: number): void {
    symlinkSync('../root', join(this.folder, 'mnt', `efs-${index}`));
  }

  async stop(): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      const ended = once(this.child, 'exit');
      this.child.kill('SIGTERM');
      await ended;
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export const targetId = (index: number): string => `fsmt-0000000${index}`;
