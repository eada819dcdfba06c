/** What a platform team asks of every stack: its tags, its boundary of permissions, its keys, its logs of access. */
import { Duration, RemovalPolicy, Stack, Tags, Validations, type App } from 'aws-cdk-lib';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as kms from 'aws-cdk-lib/aws-kms';
import * as s3 from 'aws-cdk-lib/aws-s3';
import { Construct } from 'constructs';
import type { Config } from './config.ts';

/** Tags of everything, and the boundary of every role, those of the library's own functions too. */
export function applyPlatform(app: App, config: Config) {
  for (const [name, value] of Object.entries(config.stack.tags)) Tags.of(app).add(name, value);
  const boundary = config.stack.permissionsBoundary;
  if (!boundary) return;
  for (const stack of app.node.children.filter((child) => Stack.isStack(child))) {
    const scope = new Construct(stack, 'Boundary');
    const policy = boundary.startsWith('arn:')
      ? iam.ManagedPolicy.fromManagedPolicyArn(scope, 'Policy', boundary)
      : iam.ManagedPolicy.fromManagedPolicyName(scope, 'Policy', boundary);
    iam.PermissionsBoundary.of(stack).apply(policy);
  }
}

/** The key of logs, secret and queue in the stack of `scope`; nothing where AWS's own keys are used. */
export function encryptionKey(scope: Construct, config: Config): kms.IKey | undefined {
  const wanted = config.stack.encryptionKey;
  if (!wanted) return undefined;
  const stack = Stack.of(scope);
  const known = stack.node.tryFindChild('Encryption');
  if (known) return known.node.findChild('Key') as unknown as kms.IKey;
  const group = new Construct(stack, 'Encryption');
  if (wanted !== 'own') return kms.Key.fromKeyArn(group, 'Key', wanted);
  const key = new kms.Key(group, 'Key', {
    description: 'Logs, the token of the file service, and the dead-letter queue',
    enableKeyRotation: true,
    removalPolicy: RemovalPolicy.DESTROY,
  });
  key.addToResourcePolicy(
    new iam.PolicyStatement({
      sid: 'Logs',
      principals: [new iam.ServicePrincipal(`logs.${stack.region}.amazonaws.com`)],
      actions: ['kms:Encrypt', 'kms:Decrypt', 'kms:ReEncrypt*', 'kms:GenerateDataKey*', 'kms:Describe*'],
      resources: ['*'],
      conditions: {
        ArnLike: {
          'kms:EncryptionContext:aws:logs:arn': `arn:${stack.partition}:logs:${stack.region}:${stack.account}:log-group:*`,
        },
      },
    }),
  );
  return key;
}

/** The bucket for the load balancer's log: one that is there, or one that is made. */
export function accessLogs(scope: Construct, config: Config): { bucket: string; ready?: Construct } | undefined {
  const wanted = config.service.accessLogs;
  if (!wanted) return undefined;
  if (wanted !== 'own') return { bucket: wanted };
  const bucket = new s3.Bucket(scope, 'AccessLogs', {
    // The load balancer writes with no other.
    encryption: s3.BucketEncryption.S3_MANAGED,
    blockPublicAccess: s3.BlockPublicAccess.BLOCK_ALL,
    enforceSSL: true,
    lifecycleRules: [{ expiration: Duration.days(config.pipeline.logDays) }],
    // What is in it keeps a bucket from being deleted.
    removalPolicy: RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
  });
  Validations.of(bucket).acknowledge({ id: 'AwsSolutions-S1', reason: 'it holds a log itself' });
  const { account } = Stack.of(scope);
  bucket.addToResourcePolicy(
    new iam.PolicyStatement({
      sid: 'LoadBalancer',
      principals: [new iam.ServicePrincipal('logdelivery.elasticloadbalancing.amazonaws.com')],
      actions: ['s3:PutObject'],
      resources: [bucket.arnForObjects(`AWSLogs/${account}/*`)],
    }),
  );
  return { bucket: bucket.bucketName, ready: bucket };
}
