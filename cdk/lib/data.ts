/** What outlives the system and is protected: the network's subnets, the file system, its key, its backups. */
import { CfnOutput, Stack, type App, type Environment } from 'aws-cdk-lib';
import type { Config } from './config.ts';
import { DataNetwork } from './network.ts';
import { DataStorage } from './storage.ts';

/** The name of the stack; `crates/ctl/src/stack.rs` knows it, too. */
export function dataStackName(config: Config) {
  return `${config.stack.name}-data`;
}

/** Is anything of it made? Not where all of it is there. */
export function makesData({ network, storage }: Config) {
  return !network.existing || !storage.existing?.securityGroup;
}

export class Data extends Stack {
  readonly network: DataNetwork;
  readonly storage: DataStorage;

  constructor(app: App, config: Config, env?: Environment) {
    super(app, dataStackName(config), {
      env,
      description: 'EFS mount target autoscaler: the file system, its network and its backups',
      terminationProtection: config.stack.terminationProtection,
      tags: { 'efs-autoscale': config.stack.name },
    });
    this.network = new DataNetwork(this, 'Network', config);
    this.storage = new DataStorage(this, 'Storage', config, this.network);
    // For a person, and for `efs-autoscale teardown` when the system is gone.
    new CfnOutput(this, 'FileSystemId', { value: this.storage.fileSystem.fileSystemId });
  }
}
