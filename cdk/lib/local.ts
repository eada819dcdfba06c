/** What is left out where the stack is deployed into the emulator: what it does not know. */
import { CfnResource, type IAspect } from 'aws-cdk-lib';
import { CfnAlarm } from 'aws-cdk-lib/aws-cloudwatch';
import type { IConstruct } from 'constructs';

/** A test deploys one of each, and fails when the emulator takes it: then it no longer belongs here. */
export const UNSUPPORTED_LOCALLY = [
  'AWS::ApplicationAutoScaling::ScalableTarget',
  'AWS::ApplicationAutoScaling::ScalingPolicy',
  'AWS::Backup::BackupSelection',
  'AWS::CloudTrail::Trail',
  'AWS::CloudWatch::Alarm of metric math',
  'AWS::EC2::FlowLog',
  'AWS::EC2::SecurityGroupEgress',
  'AWS::EC2::SecurityGroupIngress',
  'AWS::ECS::CapacityProvider',
  'AWS::ECS::ClusterCapacityProviderAssociations',
];

/** The entry that a resource would have in that list. */
export function kindOf(resource: CfnResource): string {
  const math = resource instanceof CfnAlarm && resource.metrics !== undefined;
  return resource.cfnResourceType + (math ? ' of metric math' : '');
}

export class SkipUnsupported implements IAspect {
  private readonly fails: string | undefined;

  constructor(fails?: string) {
    this.fails = fails;
  }

  visit(node: IConstruct): void {
    if (
      this.fails &&
      node instanceof CfnResource &&
      `${node.node.path}/`.replace(/\/Resource\/$/, '/').endsWith(`/${this.fails}/`)
    ) {
      // The emulator finds out while it makes the stack, as AWS would of a service that does not get healthy.
      node.addOverride('Type', 'Custom::CannotBeMade');
    }
    if (node instanceof CfnResource && UNSUPPORTED_LOCALLY.includes(kindOf(node))) {
      // What depends on it is told by the library, which asks this.
      (node as unknown as { shouldSynthesize: () => boolean }).shouldSynthesize = () => false;
    }
  }
}
