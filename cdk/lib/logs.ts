/** Logs, kept for as long as the settings say and gone with the stack. */
import { RemovalPolicy } from 'aws-cdk-lib';
import * as logs from 'aws-cdk-lib/aws-logs';
import type { Construct } from 'constructs';
import type { Config } from './config.ts';
import { encryptionKey } from './platform.ts';

export function createLogGroup(scope: Construct, id: string, config: Config, name?: string) {
  return new logs.LogGroup(scope, id, {
    logGroupName: name,
    retention: config.pipeline.logDays as logs.RetentionDays,
    encryptionKey: encryptionKey(scope, config),
    removalPolicy: RemovalPolicy.DESTROY,
  });
}
