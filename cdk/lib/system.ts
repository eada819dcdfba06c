/**
 * All but the data: one construct for each concern, in the order in which they need each other. Freely deleted and made
 * again.
 */
import { CfnOutput, Stack, type App, type Environment } from 'aws-cdk-lib';
import { Audit } from './audit.ts';
import type { Config } from './config.ts';
import { dataStackName, makesData, type Data } from './data.ts';
import { version } from './functions.ts';
import { Network } from './network.ts';
import { Observability } from './observability.ts';
import { Pipeline, Roles } from './pipeline.ts';
import { Service } from './service.ts';
import { shared } from './shared.ts';
import { Storage } from './storage.ts';

export class System extends Stack {
  readonly network: Network;
  readonly storage: Storage;
  readonly service: Service;
  readonly pipeline: Pipeline;

  constructor(app: App, config: Config, data: Data | undefined, env?: Environment) {
    super(app, config.stack.name, {
      env,
      description:
        'EFS mount target autoscaler: counts files, adds mount targets, publishes them, redeploys the service',
      // `efs-autoscale doctor` compares the version of the functions with that of the service.
      tags: { 'efs-autoscale': config.stack.name, 'efs-autoscale-version': version() },
    });
    const roles = new Roles(this, 'Roles', config);
    const { network, storage, vault } = shared(this, config, data);
    if (data) this.addStackDependency(data, 'its files and its network');
    this.network = new Network(this, 'Network', config, network);
    this.storage = new Storage(this, 'Storage', config, storage, vault);
    this.service = new Service(this, 'Service', config, this);
    this.pipeline = new Pipeline(this, 'Pipeline', config, {
      network: this.network,
      storage: this.storage,
      service: this.service,
      roles,
    });
    const { fileSystemId } = this.storage.fileSystem;
    const watched = new Observability(this, 'Observability', config, {
      storage: this.storage,
      pipeline: this.pipeline,
      service: this.service,
    });
    if (config.audit.trail) new Audit(this, 'Audit');

    // What `efs-autoscale` finds the system by.
    const outputs: Record<string, string | undefined> = {
      DataStackName: makesData(config) ? dataStackName(config) : undefined,
      FileSystemId: fileSystemId,
      StateMachineArn: this.pipeline.machine.stateMachineArn,
      ScheduleName: this.pipeline.schedule.scheduleName,
      ParameterName: config.pipeline.parameterName,
      ClusterName: this.service.cluster,
      ServiceName: this.service.name,
      ServiceOwned: String(this.service.ownService !== undefined),
      TaskDefinition: this.service.ownService?.taskDefinition.taskDefinitionArn,
      CapacityProvider: this.service.capacityProvider,
      TasksSecurityGroupId: this.network.tasks.securityGroupId,
      AccessPointId: this.storage.serving?.accessPointId,
      ServiceUrl: this.service.url,
      BalancerName: this.service.balancer?.loadBalancerDnsName,
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
