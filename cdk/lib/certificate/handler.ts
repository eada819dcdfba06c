/** The function behind `Custom::SelfSignedCertificate`. */
import 'reflect-metadata';
import * as acm from '@aws-sdk/client-acm';
import * as x509 from '@peculiar/x509';

const TEN_YEARS = 10 * 365 * 24 * 3600 * 1000;
/** The clock of whoever checks it may be behind. */
const HOUR = 3600 * 1000;
/** While the load balancer lets go of it: fewer seconds than the function has. */
const TRIES = 8;
const BETWEEN = 10_000;

export interface Event {
  readonly RequestType: 'Create' | 'Update' | 'Delete';
  readonly ResponseURL: string;
  readonly StackId: string;
  readonly RequestId: string;
  readonly LogicalResourceId: string;
  readonly PhysicalResourceId?: string;
  readonly ResourceProperties: { readonly DomainName: string; readonly Tag: string };
}

/** A certificate and its private key, both as PEM. ECDSA on P-256 (RFC 5480), signed by itself. */
export async function make(name: string, now = Date.now()): Promise<{ certificate: string; key: string }> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    // A name of more than 64 characters fits into the extension only.
    name: name.length <= 64 ? `CN=${name}` : 'CN=efs-autoscale',
    notBefore: new Date(now - HOUR),
    notAfter: new Date(now + TEN_YEARS),
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      // None of an authority, which some clients refuse as a server's, and no key usage: OpenSSL takes one without the
      // usage of an authority for signed by somebody else.
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
      new x509.SubjectAlternativeNameExtension([{ type: 'dns', value: name }]),
    ],
  });
  const pkcs8 = await crypto.subtle.exportKey('pkcs8', keys.privateKey);
  return { certificate: certificate.toString('pem'), key: x509.PemConverter.encode(pkcs8, 'PRIVATE KEY') };
}

async function carryOut(event: Event): Promise<string> {
  const client = new acm.ACMClient({});
  if (event.RequestType !== 'Delete') {
    const { DomainName, Tag } = event.ResourceProperties;
    const keyPair = await make(DomainName);
    // A new one for an update too: CloudFormation deletes the old one when nothing uses it any more.
    const imported = await client.send(
      new acm.ImportCertificateCommand({
        Certificate: Buffer.from(keyPair.certificate),
        PrivateKey: Buffer.from(keyPair.key),
        Tags: [{ Key: 'efs-autoscale', Value: Tag }],
      }),
    );
    if (!imported.CertificateArn) throw new Error('ACM imported a certificate and gave it no ARN');
    return imported.CertificateArn;
  }
  const arn = event.PhysicalResourceId ?? '';
  // What could not be made has no ARN, and nothing is left of it.
  if (!arn.startsWith('arn:')) return arn;
  for (let tries = 1; ; tries += 1) {
    try {
      await client.send(new acm.DeleteCertificateCommand({ CertificateArn: arn }));
      return arn;
    } catch (error) {
      const { name } = error as Error;
      if (name === 'ResourceNotFoundException') return arn;
      if (name !== 'ResourceInUseException' || tries === TRIES) throw error;
      await new Promise((done) => setTimeout(done, BETWEEN));
    }
  }
}

/** Tells CloudFormation how it ended, whatever happens: it waits for an hour otherwise. */
export async function handler(event: Event): Promise<void> {
  const { StackId, RequestId, LogicalResourceId } = event;
  let outcome: Record<string, string>;
  try {
    outcome = { Status: 'SUCCESS', PhysicalResourceId: await carryOut(event) };
  } catch (error) {
    console.error(error);
    const reason = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    outcome = { Status: 'FAILED', Reason: reason, PhysicalResourceId: event.PhysicalResourceId ?? 'none' };
  }
  const body = JSON.stringify({ ...outcome, StackId, RequestId, LogicalResourceId });
  const answer = await fetch(event.ResponseURL, { method: 'PUT', body, headers: { 'content-type': '' } });
  if (!answer.ok) throw new Error(`CloudFormation took no answer: ${answer.status}`);
}
