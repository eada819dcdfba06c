/**
 * The metrics that alarms and the dashboard look at. Those of the system's own are in `crates/domain/src/metric.rs`; a
 * test compares.
 */
import { Duration } from 'aws-cdk-lib';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';

export const NAMESPACE = 'EfsMountAutoscaling';
const FIVE_MINUTES = Duration.minutes(5);

/** One of the functions', by file system. */
export function pipelineMetric(metricName: string, fileSystemId: string, props: Partial<cloudwatch.MetricProps> = {}) {
  const { dimensionsMap, ...rest } = props;
  return new cloudwatch.Metric({
    namespace: NAMESPACE,
    metricName,
    dimensionsMap: { FileSystemId: fileSystemId, ...dimensionsMap },
    statistic: cloudwatch.Stats.MAXIMUM,
    period: FIVE_MINUTES,
    ...rest,
  });
}

/** One of the file service's, a line for each mount target: which there are, only the metrics know. */
export function targetMetric(metricName: string, fileSystemId: string, statistic: string, label: string) {
  const search = `SEARCH('{${NAMESPACE},FileSystemId,MountTargetId} MetricName="${metricName}" FileSystemId="${fileSystemId}"', '${statistic}', 60)`;
  return new cloudwatch.MathExpression({ expression: search, usingMetrics: {}, label, period: Duration.minutes(1) });
}

/** One of EFS's: of the whole file system, since EFS reports nothing by target. */
export function efsMetric(metricName: string, fileSystemId: string, statistic: string) {
  return new cloudwatch.Metric({
    namespace: 'AWS/EFS',
    metricName,
    dimensionsMap: { FileSystemId: fileSystemId },
    statistic,
    period: FIVE_MINUTES,
  });
}
