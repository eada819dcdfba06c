/** The six functions, the state machine that chains them, and the schedule that starts it. */
import { ArnFormat, Duration, Stack, Validations } from 'aws-cdk-lib';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import * as scheduler from 'aws-cdk-lib/aws-scheduler';
import { StepFunctionsStartExecution } from 'aws-cdk-lib/aws-scheduler-targets';
import * as sqs from 'aws-cdk-lib/aws-sqs';
import * as sfn from 'aws-cdk-lib/aws-stepfunctions';
import { Construct } from 'constructs';
import type { Config } from './config.ts';
import { binary } from './binaries.ts';
import { definition, FUNCTIONS, lambdaSizing, stateOf, type FunctionName } from './functions.ts';
import { createLogGroup } from './logs.ts';
import { allow, vpcAttachmentStatements, explainWildcards, permissions, type World } from './permissions.ts';
import { encryptionKey } from './platform.ts';
import { countPath } from './storage.ts';

/** A Lambda mounts below /mnt only. */
const MOUNT = '/mnt/data';
/** The original design's table. */
const COUNT_MEMORY = { small: 512, medium: 1024, large: 2048 };

/** The roles of the functions. The file system's policy knows that of `count` by its path. */
export class Roles extends Construct {
  readonly of = {} as Record<FunctionName, iam.Role>;

  constructor(scope: Construct, id: string, config: Config) {
    super(scope, id);
    for (const name of FUNCTIONS) {
      this.of[name] = new iam.Role(this, stateOf(name), {
        ...(name === 'count' && { path: countPath(config) }),
        assumedBy: new iam.ServicePrincipal('lambda.amazonaws.com'),
        description: `The function ${name}`,
      });
    }
  }
}

export interface PipelineProps extends World {
  readonly roles: Roles;
  readonly service: { readonly arn: string; readonly cluster: string; readonly name: string };
}

export class Pipeline extends Construct {
  readonly functions = {} as Record<FunctionName, lambda.Function>;
  readonly machine: sfn.StateMachine;
  readonly schedule: scheduler.Schedule;
  /** What the schedule could not start. */
  readonly notStarted: sqs.Queue;

  constructor(scope: Construct, id: string, config: Config, props: PipelineProps) {
    super(scope, id);
    const allowed = permissions(this, config, props);
    for (const name of FUNCTIONS) {
      const role = props.roles.of[name];
      for (const statement of allowed[name]) role.addToPolicy(statement);
      this.functions[name] = this.function(name, config, props, role);
    }
    this.machine = this.chain(config);
    const encryptionMasterKey = encryptionKey(this, config);
    this.notStarted = new sqs.Queue(this, 'NotStarted', {
      encryption: encryptionMasterKey ? sqs.QueueEncryption.KMS : sqs.QueueEncryption.SQS_MANAGED,
      encryptionMasterKey,
      enforceSSL: true,
      retentionPeriod: Duration.days(14),
    });
    Validations.of(this.notStarted).acknowledge({
      id: 'AwsSolutions-SQS3',
      reason: 'it is a dead-letter queue itself',
    });
    const role = new iam.Role(this, 'ScheduleRole', {
      assumedBy: new iam.ServicePrincipal('scheduler.amazonaws.com'),
      description: 'The schedule: starts the state machine',
    });
    encryptionMasterKey?.grant(role, 'kms:Decrypt', 'kms:GenerateDataKey');
    this.schedule = new scheduler.Schedule(this, 'Schedule', {
      description: 'Starts a cycle of the mount target autoscaler',
      schedule: scheduler.ScheduleExpression.expression(config.pipeline.schedule),
      enabled: !config.pipeline.paused,
      target: new StepFunctionsStartExecution(this.machine, {
        role,
        input: scheduler.ScheduleTargetInput.fromObject({}),
        deadLetterQueue: this.notStarted,
        // The next one does the same: what could not be started for five minutes need not be.
        maxEventAge: Duration.minutes(5),
        retryAttempts: 3,
      }),
    });
    // Its policy first: what it may not start yet lands in the queue.
    this.schedule.node.addDependency(role);
  }

  private function(name: FunctionName, config: Config, props: PipelineProps, role: iam.Role) {
    const { memory, timeout } = lambdaSizing(name);
    const counts = name === 'count';
    const inVpc = counts || config.pipeline.inVpc;
    const functionName = config.pipeline.namePrefix + name;
    const logGroup = createLogGroup(this, `${stateOf(name)}Log`, config, `/aws/lambda/${functionName}`);
    logGroup.grantWrite(role);
    if (inVpc) {
      const arnFormat = ArnFormat.COLON_RESOURCE_NAME;
      const arn = Stack.of(this).formatArn({
        service: 'lambda',
        resource: 'function',
        resourceName: functionName,
        arnFormat,
      });
      for (const statement of vpcAttachmentStatements(this, config, props.network, name, arn))
        role.addToPolicy(statement);
    }
    const lambdaFunction = new lambda.Function(this, stateOf(name), {
      functionName,
      description: `EFS mount target autoscaler: ${name}`,
      code: lambda.Code.fromAsset(binary(name, config)),
      handler: 'bootstrap',
      runtime: lambda.Runtime.PROVIDED_AL2023,
      architecture: config.pipeline.architecture === 'arm64' ? lambda.Architecture.ARM_64 : lambda.Architecture.X86_64,
      memorySize: counts ? COUNT_MEMORY[config.pipeline.scale] : memory,
      timeout: Duration.seconds(timeout),
      tracing: lambda.Tracing.ACTIVE,
      environment: this.environment(name, config, props),
      logGroup,
      role,
      ...(counts && config.pipeline.reservedConcurrency && { reservedConcurrentExecutions: places() }),
      ...(inVpc && {
        vpc: props.network.vpc,
        vpcSubnets: { subnets: counts ? props.storage.mountable : props.network.subnets },
        securityGroups: [props.network.functions],
      }),
    });
    if (counts) {
      // Not by the library's own way, which would let it write.
      const { accessPointArn: arn } = props.storage.counting;
      (lambdaFunction.node.defaultChild as lambda.CfnFunction).fileSystemConfigs = [{ arn, localMountPath: MOUNT }];
      lambdaFunction.node.addDependency(props.storage.fileSystem.mountTargetsAvailable);
    }
    // The function's policy first: with its first request it may need all of it.
    lambdaFunction.node.addDependency(role);
    if (inVpc) lambdaFunction.node.addDependency(props.network.ready);
    explainWildcards(role, config);
    return lambdaFunction;
  }

  private environment(name: FunctionName, config: Config, props: PipelineProps): Record<string, string> {
    const { scaling, pipeline } = config;
    const parameter = { SSM_PARAMETER_NAME: pipeline.parameterName };
    const service = { ECS_CLUSTER_NAME: props.service.cluster, ECS_SERVICE_NAME: props.service.name };
    const own: Record<FunctionName, Record<string, string | number | undefined>> = {
      count: {
        ...parameter,
        TARGET_DIRECTORY: config.local?.directory ?? MOUNT,
        COUNT_FULL_EVERY: pipeline.countFullEvery,
        COUNT_CACHE_SECONDS: pipeline.countCacheSeconds || undefined,
      },
      evaluate: {
        ...parameter,
        ...service,
        VPC_ID: props.network.vpc.vpcId,
        SUBNET_IDS: props.network.subnets.map((subnet) => subnet.subnetId).join(','),
        FILE_COUNT_THRESHOLD: scaling.threshold,
        SCALING_RULE: scaling.rule,
        INITIAL_MOUNT_TARGETS: scaling.initialMountTargets,
        COOLDOWN_SECONDS: scaling.cooldownSeconds,
        MIN_MOUNT_TARGETS: config.storage.existing ? undefined : scaling.initialMountTargets,
        MAX_MOUNT_TARGETS: scaling.maxMountTargets,
        REDEPLOY: pipeline.redeploy,
      },
      'create-target': {
        ...parameter,
        SECURITY_GROUP_IDS: props.network.targets.securityGroupId,
        IP_ADDRESS_TYPE: scaling.ipAddressType === 'IPV4_ONLY' ? undefined : scaling.ipAddressType,
      },
      'poll-available': {},
      'publish-ssm': { ...parameter, SSM_PARAMETER_TYPE: pipeline.parameterType },
      redeploy: { ...parameter, ...service, REDEPLOY: pipeline.redeploy },
    };
    const all = {
      EFS_FILE_SYSTEM_ID: props.storage.fileSystem.fileSystemId,
      OTEL_EXPORTER_OTLP_ENDPOINT: pipeline.otlpEndpoint,
      ...own[name],
    };
    const set = Object.entries(all).filter(([, value]) => value !== undefined);
    if (config.local) set.push(['AWS_ENDPOINT_URL', config.local.endpoint]);
    return Object.fromEntries(set.map(([variable, value]) => [variable, String(value)]));
  }

  private chain(config: Config) {
    const role = new iam.Role(this, 'MachineRole', {
      assumedBy: new iam.ServicePrincipal('states.amazonaws.com'),
      description: 'The state machine: invokes the six functions',
    });
    const arns = FUNCTIONS.map((name) => this.functions[name].functionArn);
    role.addToPolicy(allow(['lambda:InvokeFunction'], arns));
    const machine = new sfn.StateMachine(this, 'Machine', {
      stateMachineName: config.stack.name,
      comment: 'One cycle of the EFS mount target autoscaler',
      // As text, so that whoever looks at the template sees the machine.
      definitionBody: sfn.DefinitionBody.fromString(definition()),
      definitionSubstitutions: {
        ...Object.fromEntries(FUNCTIONS.map((name) => [`${stateOf(name)}Function`, this.functions[name].functionArn])),
        PollIntervalSeconds: String(config.pipeline.pollIntervalSeconds),
        PollTimeoutSeconds: String(config.pipeline.pollTimeoutSeconds),
      },
      stateMachineType: sfn.StateMachineType.STANDARD,
      role,
      tracingEnabled: true,
      logs: {
        destination: createLogGroup(this, 'MachineLog', config, `/aws/vendedlogs/states/${config.stack.name}`),
        level: sfn.LogLevel.ALL,
        includeExecutionData: true,
      },
    });
    explainWildcards(role, config);
    return machine;
  }
}

/** How many parts of a count the machine works off at once. */
export function places(): number {
  const machine = JSON.parse(definition()) as { States: { CountPartitions: { MaxConcurrency: number } } };
  return machine.States.CountPartitions.MaxConcurrency;
}
