/** What is watched: alarms that ring for somebody, and a dashboard for whoever looks. */
import { Duration, RemovalPolicy, Stack } from 'aws-cdk-lib';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import { SnsAction } from 'aws-cdk-lib/aws-cloudwatch-actions';
import * as elb from 'aws-cdk-lib/aws-elasticloadbalancingv2';
import * as events from 'aws-cdk-lib/aws-events';
import { SnsTopic } from 'aws-cdk-lib/aws-events-targets';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as kms from 'aws-cdk-lib/aws-kms';
import * as sns from 'aws-cdk-lib/aws-sns';
import { EmailSubscription } from 'aws-cdk-lib/aws-sns-subscriptions';
import { Construct } from 'constructs';
import type { Config } from './config.ts';
import { FUNCTIONS, stateOf } from './functions.ts';
import { targetMetric, NAMESPACE, efsMetric, pipelineMetric } from './metrics.ts';
import type { Pipeline } from './pipeline.ts';
import type { Service } from './service.ts';
import type { Storage } from './storage.ts';

const { GREATER_THAN_THRESHOLD, GREATER_THAN_OR_EQUAL_TO_THRESHOLD, LESS_THAN_THRESHOLD } =
  cloudwatch.ComparisonOperator;
const { BREACHING, NOT_BREACHING } = cloudwatch.TreatMissingData;
const FIVE_MINUTES = Duration.minutes(5);
/** A tenth of the 2.1 TiB that a file system begins with. */
const FEW_CREDITS = 0.21 * 2 ** 40;

export interface ObservabilityProps {
  readonly storage: Storage;
  readonly pipeline: Pipeline;
  readonly service: Service;
}

export class Observability extends Construct {
  readonly topic: sns.Topic;

  constructor(scope: Construct, id: string, config: Config, props: ObservabilityProps) {
    super(scope, id);
    this.topic = this.createAlarmTopic(config);
    this.createAlarms(config, props);
    this.createDashboard(config, props);
  }

  private createAlarmTopic(config: Config) {
    const key = new kms.Key(this, 'Key', {
      description: 'What alarms say',
      enableKeyRotation: true,
      // Nothing is kept that it would be needed for.
      removalPolicy: RemovalPolicy.DESTROY,
    });
    // CloudWatch encrypts what it says, and needs the key for it. So does EventBridge, which knows no conditions here: the
    // library allows it where a rule is.
    key.addToResourcePolicy(
      new iam.PolicyStatement({
        sid: 'WhoRings',
        principals: [new iam.ServicePrincipal('cloudwatch.amazonaws.com')],
        actions: ['kms:Decrypt', 'kms:GenerateDataKey*'],
        resources: ['*'],
        conditions: { StringEquals: { 'aws:SourceAccount': Stack.of(this).account } },
      }),
    );
    const topic = new sns.Topic(this, 'Topic', {
      displayName: 'EFS mount target autoscaler',
      masterKey: key,
      enforceSSL: true,
    });
    topic.addToResourcePolicy(
      new iam.PolicyStatement({
        sid: 'Alarms',
        principals: [new iam.ServicePrincipal('cloudwatch.amazonaws.com')],
        actions: ['sns:Publish'],
        resources: [topic.topicArn],
        conditions: { StringEquals: { 'aws:SourceAccount': Stack.of(this).account } },
      }),
    );
    for (const email of config.alarms.emails) topic.addSubscription(new EmailSubscription(email));
    return topic;
  }

  /** Rings when the metric breaches for so many of its periods in a row. */
  private createAlarm(
    id: string,
    alarmDescription: string,
    metric: cloudwatch.IMetric,
    props: Partial<cloudwatch.AlarmProps>,
  ) {
    const createAlarm = new cloudwatch.Alarm(this, id, {
      alarmDescription: `${alarmDescription}. ${runbook(id)}`,
      metric,
      threshold: 1,
      evaluationPeriods: 1,
      comparisonOperator: GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
      treatMissingData: NOT_BREACHING,
      ...props,
    });
    createAlarm.addAlarmAction(new SnsAction(this.topic));
    createAlarm.addOkAction(new SnsAction(this.topic));
  }

  private createAlarms(config: Config, { storage, pipeline, service }: ObservabilityProps) {
    const { vault } = storage;
    const { fileSystemId } = storage.fileSystem;
    const { functions, machine } = pipeline;
    for (const name of FUNCTIONS) {
      const rate = new cloudwatch.MathExpression({
        expression: '100 * errors / invocations',
        usingMetrics: {
          errors: functions[name].metricErrors({ period: FIVE_MINUTES }),
          invocations: functions[name].metricInvocations({ period: FIVE_MINUTES }),
        },
        period: FIVE_MINUTES,
        label: 'errors, %',
      });
      this.createAlarm(
        `${stateOf(name)}Errors`,
        `More than 10 % of the invocations of ${name} fail: its log says why`,
        rate,
        {
          threshold: 10,
          comparisonOperator: GREATER_THAN_THRESHOLD,
          evaluationPeriods: 3,
          datapointsToAlarm: 2,
        },
      );
    }
    this.createAlarm(
      'IoLimit',
      'The file system is close to the limit of its performance mode',
      efsMetric('PercentIOLimit', fileSystemId, 'Maximum'),
      {
        threshold: 80,
        comparisonOperator: GREATER_THAN_THRESHOLD,
        evaluationPeriods: 3,
      },
    );
    this.createAlarm(
      'TargetCreationFailed',
      'A mount target could not be created: see the log of create-target, then the limits of the VPC',
      functions['create-target'].metricErrors({ period: FIVE_MINUTES }),
      {},
    );
    const failed = new cloudwatch.MathExpression({
      // A sum without a value of each has none itself.
      expression: 'FILL(failed, 0) + FILL(timedOut, 0) + FILL(aborted, 0)',
      usingMetrics: {
        failed: machine.metricFailed({ period: FIVE_MINUTES }),
        timedOut: machine.metricTimedOut({ period: FIVE_MINUTES }),
        aborted: machine.metricAborted({ period: FIVE_MINUTES }),
      },
      period: FIVE_MINUTES,
      label: 'executions that failed',
    });
    this.createAlarm('ExecutionFailed', 'An execution failed: efs-autoscale explain latest says why', failed, {});
    if (!config.pipeline.paused) {
      const hours = maxHoursWithoutExecution(config.pipeline.schedule);
      this.createAlarm(
        'ScheduleSilent',
        `No execution was started for ${hours} h`,
        machine.metricStarted({ period: Duration.hours(1) }),
        {
          evaluationPeriods: hours,
          comparisonOperator: LESS_THAN_THRESHOLD,
          treatMissingData: BREACHING,
        },
      );
    }
    this.createAlarm(
      'NotStarted',
      'The schedule could not start an execution: the message is in the dead-letter queue',
      pipeline.notStarted.metricApproximateNumberOfMessagesVisible({ period: FIVE_MINUTES, statistic: 'Maximum' }),
      {},
    );
    if (config.storage.throughput === 'bursting') {
      this.createAlarm(
        'BurstCreditsLow',
        'The file system will soon be slow: throughput=elastic has no credits',
        efsMetric('BurstCreditBalance', fileSystemId, 'Minimum'),
        {
          threshold: FEW_CREDITS,
          comparisonOperator: LESS_THAN_THRESHOLD,
          evaluationPeriods: 3,
        },
      );
    }
    const differ = new cloudwatch.MathExpression({
      expression: 'ABS(targets - published)',
      usingMetrics: {
        targets: pipelineMetric('Targets', fileSystemId),
        published: pipelineMetric('Published', fileSystemId, { statistic: cloudwatch.Stats.MINIMUM }),
      },
      period: FIVE_MINUTES,
      label: 'targets that are not as published',
    });
    this.createAlarm(
      'PublishedDiffers',
      'For half an hour the published list has not been that of the targets that are available',
      differ,
      { evaluationPeriods: 6 },
    );
    if (service.ownService) this.createServiceAlarms(fileSystemId, service);
    if (vault) {
      this.createAlarm(
        'BackupFailed',
        'A backup of the file system failed: see its jobs in AWS Backup',
        new cloudwatch.Metric({
          namespace: 'AWS/Backup',
          metricName: 'NumberOfBackupJobsFailed',
          dimensionsMap: { BackupVaultName: vault.backupVaultName },
          statistic: 'Sum',
          period: Duration.hours(1),
        }),
        {},
      );
    }
  }

  private createServiceAlarms(fileSystemId: string, service: Service) {
    this.createTaskAlarms(service);
    this.createAlarm(
      'TargetDown',
      'The file service has not reached a mount target for five minutes: GET /targets says which, and why',
      // No alarm takes a SEARCH, and the service has no metric without a target.
      new cloudwatch.MathExpression({
        expression: `SELECT MIN(TargetUp) FROM SCHEMA("${NAMESPACE}", FileSystemId, MountTargetId) WHERE FileSystemId = '${fileSystemId}'`,
        usingMetrics: {},
        period: Duration.minutes(1),
        label: 'the worst target',
      }),
      { comparisonOperator: LESS_THAN_THRESHOLD, evaluationPeriods: 5 },
    );
    const { balancer, tasks } = service;
    if (!balancer || !tasks) return;
    this.createAlarm(
      'UnhealthyTasks',
      'The load balancer has called a task unhealthy for five minutes: see its log, and GET /readyz',
      tasks.metrics.unhealthyHostCount({ period: Duration.minutes(1), statistic: 'Maximum' }),
      { evaluationPeriods: 5 },
    );
    const errors = new cloudwatch.MathExpression({
      expression: '100 * (FILL(ofTasks, 0) + FILL(ofBalancer, 0)) / requests',
      usingMetrics: {
        ofTasks: balancer.metrics.httpCodeTarget(elb.HttpCodeTarget.TARGET_5XX_COUNT, { period: FIVE_MINUTES }),
        ofBalancer: balancer.metrics.httpCodeElb(elb.HttpCodeElb.ELB_5XX_COUNT, { period: FIVE_MINUTES }),
        requests: balancer.metrics.requestCount({ period: FIVE_MINUTES }),
      },
      period: FIVE_MINUTES,
      label: 'requests that end with 5xx, %',
    });
    this.createAlarm(
      'ServiceErrors',
      'More than 5 % of the requests end with 5xx: 503 of tasks says that targets are out of reach, 502 and 504 are of the balancer',
      errors,
      { threshold: 5, comparisonOperator: GREATER_THAN_THRESHOLD, evaluationPeriods: 3, datapointsToAlarm: 2 },
    );
  }

  /** ECS has no metric of tasks that do not start; it tells EventBridge. */
  private createTaskAlarms(service: Service) {
    const { fromPath } = events.EventField;
    // A path that the event does not have is left out.
    const taskEvent = events.RuleTargetInput.fromText(
      `${fromPath('$.detail.eventName')} ${fromPath('$.detail.reason')} (${fromPath('$.time')}, ${service.arn}). ${runbook('TaskLaunchFailed')}`,
    );
    const rule = new events.Rule(this, 'TasksDoNotStart', {
      description: 'Tasks of the file service cannot be started, or a deployment was taken back',
      eventPattern: {
        source: ['aws.ecs'],
        detailType: ['ECS Service Action', 'ECS Deployment State Change'],
        resources: [service.arn],
        detail: {
          eventName: [
            'SERVICE_TASK_START_IMPAIRED',
            'SERVICE_TASK_PLACEMENT_FAILURE',
            'SERVICE_TASK_CONFIGURATION_FAILURE',
            'SERVICE_DEPLOYMENT_FAILED',
          ],
        },
      },
      targets: [new SnsTopic(this.topic, { message: taskEvent })],
    });
    const matched = new cloudwatch.Metric({
      namespace: 'AWS/Events',
      metricName: 'TriggeredRules',
      dimensionsMap: { RuleName: rule.ruleName },
      statistic: 'Sum',
      period: FIVE_MINUTES,
    });
    this.createAlarm(
      'TaskLaunchFailed',
      'A task of the file service could not be started, or a deployment was taken back: see the events of the service',
      matched,
      {},
    );
  }

  private createDashboard(config: Config, { storage, pipeline, service }: ObservabilityProps) {
    const { fileSystemId } = storage.fileSystem;
    const graph = (title: string, left: cloudwatch.IMetric[], width = 8, right: cloudwatch.IMetric[] = []) =>
      new cloudwatch.GraphWidget({ title, left, right, width, height: 6, liveData: true });
    const { machine, functions } = pipeline;
    const rows: cloudwatch.IWidget[][] = [
      [
        graph(
          'How many files are there, and are there too many?',
          [
            pipelineMetric('FileCount', fileSystemId, { label: 'files' }),
            pipelineMetric('Threshold', fileSystemId, { label: 'threshold' }),
          ],
          12,
        ),
        graph(
          'Is every available mount target published?',
          [
            pipelineMetric('Targets', fileSystemId, { label: 'available' }),
            pipelineMetric('Published', fileSystemId, { label: 'published' }),
          ],
          6,
        ),
        graph('How long does a new mount target take? (s)', [pipelineMetric('CreateDuration', fileSystemId)], 6),
      ],
      [
        graph('Do executions succeed?', [machine.metricSucceeded(), machine.metricFailed(), machine.metricTimedOut()]),
        graph(
          'Which function is slow? (ms, p90)',
          FUNCTIONS.map((name) => functions[name].metricDuration({ statistic: 'p90', label: stateOf(name) })),
        ),
        graph('How long does a count take? (s, files/s)', [pipelineMetric('CountDuration', fileSystemId)], 8, [
          pipelineMetric('FilesPerSecond', fileSystemId),
        ]),
      ],
      [
        graph('What is decided, and why?', [
          new cloudwatch.MathExpression({
            expression: `SEARCH('{EfsMountAutoscaling,FileSystemId,Reason} MetricName="Decision" FileSystemId="${fileSystemId}"', 'Sum', 300)`,
            usingMetrics: {},
            label: '',
          }),
        ]),
        graph('How much is read and written? (EFS, bytes)', [
          efsMetric('DataReadIOBytes', fileSystemId, 'Sum'),
          efsMetric('DataWriteIOBytes', fileSystemId, 'Sum'),
          efsMetric('MetadataIOBytes', fileSystemId, 'Sum'),
        ]),
        graph('Is EFS at its I/O limit? (%, connections)', [efsMetric('PercentIOLimit', fileSystemId, 'Maximum')], 8, [
          efsMetric('ClientConnections', fileSystemId, 'Sum'),
        ]),
      ],
      [
        graph(
          'Is reading spread evenly? (bytes by target)',
          [targetMetric('TargetBytesRead', fileSystemId, 'Sum', '')],
          6,
        ),
        graph(
          'Is writing spread evenly? (bytes by target)',
          [targetMetric('TargetBytesWritten', fileSystemId, 'Sum', '')],
          6,
        ),
        graph('Which target is slow? (s)', [targetMetric('TargetLatency', fileSystemId, 'Average', '')], 6),
        graph('Which target is down?', [targetMetric('TargetUp', fileSystemId, 'Minimum', '')], 6),
      ],
      [
        graph(
          'Are operations spread evenly? (by target)',
          [targetMetric('TargetOperations', fileSystemId, 'Sum', '')],
          6,
        ),
        graph(
          'Which target fails or refuses?',
          [
            targetMetric('TargetFailures', fileSystemId, 'Sum', 'failed '),
            targetMetric('TargetRefused', fileSystemId, 'Sum', 'refused '),
          ],
          6,
        ),
        ...(service.ownService
          ? [
              graph(
                'Do the tasks have enough CPU and memory? (%)',
                [service.ownService.metricCpuUtilization(), service.ownService.metricMemoryUtilization()],
                12,
              ),
            ]
          : []),
      ],
    ];
    new cloudwatch.Dashboard(this, 'Dashboard', { dashboardName: config.stack.name, widgets: rows });
  }
}

/** Where an alarm's cause and remedy are: `crates/domain/src/codes/alarms.rs` has an entry for each. */
export function runbook(id: string): string {
  return `Runbook: efs-autoscale help ${id}, docs/reference/codes.md#${id.toLowerCase()}`;
}

/** Hours without an execution that are too many: twice the schedule's own, of one hour at least and a week at most. */
export function maxHoursWithoutExecution(schedule: string): number {
  const [, number, unit] = /^rate\((\d+) (minute|hour|day)s?\)$/.exec(schedule) ?? [];
  // What a cron expression means is not worked out here.
  if (number === undefined) return 168;
  const minutes = Number(number) * { minute: 1, hour: 60, day: 1440 }[unit as 'minute' | 'hour' | 'day'];
  return Math.min(168, Math.max(1, Math.ceil((2 * minutes) / 60)));
}
