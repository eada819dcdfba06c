/** The whole system: one construct for each concern, in the order in which they need each other. */
import { Aspects, CfnOutput, Stack, type App, type Environment } from 'aws-cdk-lib';
import { Audit } from './audit.ts';
import type { Config } from './config.ts';
import { LeaveOut } from './local.ts';
import { Network } from './network.ts';
import { Observability } from './observability.ts';
import { Pipeline, Roles } from './pipeline.ts';
import { Service } from './service.ts';
import { Storage } from './storage.ts';

export class System extends Stack {
  readonly network: Network;
  readonly storage: Storage;
  readonly service: Service;
  readonly pipeline: Pipeline;

  constructor(app: App, config: Config, env?: Environment) {
    super(app, config.stack.name, {
      env,
      description:
        'EFS mount target autoscaler: counts files, adds mount targets, publishes them, redeploys the service',
      terminationProtection: config.stack.terminationProtection && !config.local,
      tags: { 'efs-autoscale': config.stack.name },
    });
    const roles = new Roles(this, 'Roles');
    this.network = new Network(this, 'Network', config);
    this.storage = new Storage(this, 'Storage', config, { network: this.network, countRole: roles.of.count });
    this.service = new Service(this, 'Service', config, this);
    this.pipeline = new Pipeline(this, 'Pipeline', config, {
      network: this.network,
      storage: this.storage,
      service: this.service,
      roles,
    });
    const { fileSystemId } = this.storage.fileSystem;
    const watched = new Observability(this, 'Observability', config, {
      fileSystemId,
      pipeline: this.pipeline,
      service: this.service,
    });
    if (config.audit.trail) new Audit(this, 'Audit');
    if (config.local) Aspects.of(this).add(new LeaveOut());

    // What `efs-autoscale` finds the system by.
    const outputs: Record<string, string | undefined> = {
      FileSystemId: fileSystemId,
      StateMachineArn: this.pipeline.machine.stateMachineArn,
      ScheduleName: this.pipeline.schedule.scheduleName,
      ParameterName: config.pipeline.parameterName,
      ClusterName: this.service.cluster,
      ServiceName: this.service.name,
      ServiceOwned: String(this.service.made !== undefined),
      ServiceUrl: this.service.url,
      TokenArn: this.service.token?.secretArn,
      TopicArn: watched.topic.topicArn,
      VpcId: this.network.vpc.vpcId,
      SubnetIds: this.network.subnets.map((subnet) => subnet.subnetId).join(','),
      SecurityGroupId: this.network.targets.securityGroupId,
    };
    for (const [name, value] of Object.entries(outputs)) {
      if (value !== undefined) new CfnOutput(this, name, { value });
    }
  }
}
