/**
 * A certificate for the load balancer where nobody has given one: it signs itself, for the service's name in the VPC, and
 * is kept in ACM. Its private key is made in the function that asks for it, and is nowhere else.
 */
import { join } from 'node:path';
import { CustomResource, Duration, Stack } from 'aws-cdk-lib';
import * as acm from 'aws-cdk-lib/aws-certificatemanager';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import { Construct } from 'constructs';
import { buildSync } from 'esbuild';
import type { Config } from '../config.ts';
import { createLogGroup } from '../logs.ts';
import { explainWildcards } from '../permissions.ts';

export class Certificate extends Construct {
  readonly certificate: acm.ICertificate;

  constructor(scope: Construct, id: string, config: Config) {
    super(scope, id);
    if (config.service.certificateArn) {
      this.certificate = acm.Certificate.fromCertificateArn(this, 'Given', config.service.certificateArn);
      return;
    }
    const role = new iam.Role(this, 'Role', {
      assumedBy: new iam.ServicePrincipal('lambda.amazonaws.com'),
      description: 'Makes the certificate of the load balancer',
    });
    const { region, account, partition } = Stack.of(this);
    const tagged = { StringEquals: { 'aws:ResourceTag/efs-autoscale': config.stack.name } };
    role.addToPolicy(
      // What is not there yet has no ARN; what it becomes has this tag.
      new iam.PolicyStatement({
        actions: ['acm:ImportCertificate', 'acm:AddTagsToCertificate'],
        resources: [`arn:${partition}:acm:${region}:${account}:certificate/*`],
        conditions: { StringEquals: { 'aws:RequestTag/efs-autoscale': config.stack.name } },
      }),
    );
    role.addToPolicy(
      new iam.PolicyStatement({
        actions: ['acm:DeleteCertificate'],
        resources: [`arn:${partition}:acm:${region}:${account}:certificate/*`],
        conditions: tagged,
      }),
    );
    explainWildcards(role, config);
    const logGroup = createLogGroup(this, 'Log', config);
    logGroup.grantWrite(role);
    const maker = new lambda.Function(this, 'Maker', {
      description: 'Makes the certificate of the load balancer',
      code: lambda.Code.fromAsset(join(import.meta.dirname), {
        bundling: { image: lambda.Runtime.NODEJS_24_X.bundlingImage, local: { tryBundle: bundle } },
      }),
      handler: 'index.handler',
      runtime: lambda.Runtime.NODEJS_24_X,
      architecture: config.pipeline.architecture === 'arm64' ? lambda.Architecture.ARM_64 : lambda.Architecture.X86_64,
      memorySize: 256,
      timeout: Duration.minutes(2),
      logGroup,
      role,
    });
    maker.node.addDependency(role);
    const resource = new CustomResource(this, 'Made', {
      resourceType: 'Custom::SelfSignedCertificate',
      serviceToken: maker.functionArn,
      // CloudFormation would wait for an hour for a function that dies.
      serviceTimeout: Duration.minutes(5),
      properties: { DomainName: config.service.domainName, Tag: config.stack.name },
    });
    this.certificate = acm.Certificate.fromCertificateArn(this, 'Imported', resource.ref);
  }
}

/** One file, with all that it needs. */
function bundle(folder: string): boolean {
  buildSync({
    entryPoints: [join(import.meta.dirname, 'handler.ts')],
    outfile: join(folder, 'index.js'),
    bundle: true,
    platform: 'node',
    target: 'node24',
    format: 'cjs',
    minify: true,
    legalComments: 'none',
    logLevel: 'warning',
  });
  return true;
}
