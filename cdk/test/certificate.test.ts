/** The function behind the load balancer's own certificate, against an ACM and a CloudFormation of this test's. */
import assert from 'node:assert/strict';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test, type TestContext } from 'node:test';
import { connect, createServer as createTlsServer } from 'node:tls';
import { handler, make, type Event } from '../lib/certificate/handler.ts';

const ARN = 'arn:aws:acm:ap-northeast-1:123456789012:certificate/00000000-0000-0000-0000-000000000000';

interface Heard {
  readonly operation: string;
  readonly body: any;
}
type Answer = (heard: Heard) => { status: number; body: unknown };

async function text(request: IncomingMessage): Promise<string> {
  let all = '';
  for await (const piece of request) all += piece;
  return all;
}

/** An ACM that answers like this, a CloudFormation that takes what it is told, and what both have heard. */
async function world(t: TestContext, acm: Answer, takes = 200) {
  const asked: Heard[] = [];
  const told: any[] = [];
  const server = createServer(async (request, response) => {
    const body = JSON.parse(await text(request));
    if (request.method === 'PUT') {
      told.push({ path: request.url, type: request.headers['content-type'], ...body });
      response.writeHead(takes).end();
      return;
    }
    const heard = { operation: String(request.headers['x-amz-target']).split('.')[1] ?? '', body };
    asked.push(heard);
    const answer = acm(heard);
    response
      .writeHead(answer.status, { 'content-type': 'application/x-amz-json-1.1' })
      .end(JSON.stringify(answer.body));
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  t.after(() => server.close());
  t.after(() => server.closeAllConnections());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  Object.assign(process.env, {
    AWS_ENDPOINT_URL: url,
    AWS_REGION: 'ap-northeast-1',
    AWS_ACCESS_KEY_ID: 'test',
    AWS_SECRET_ACCESS_KEY: 'test',
  });
  t.mock.method(console, 'error', () => {});
  const event = (more: Partial<Event>): Event => ({
    RequestType: 'Create',
    ResponseURL: `${url}/answer?X-Amz-Signature=1`,
    StackId: 'stack',
    RequestId: 'request',
    LogicalResourceId: 'Made',
    ResourceProperties: { DomainName: 'files.example.internal', Tag: 'efs-mount-autoscaling' },
    ...more,
  });
  return { asked, told, event };
}
const refuses =
  (code: string): Answer =>
  () => ({ status: 400, body: { __type: code, message: 'not today' } });
const makes: Answer = () => ({ status: 200, body: { CertificateArn: ARN } });

test('a certificate is for its name, of its own key, and signed by itself', async () => {
  const long = `${'a'.repeat(60)}.${'b'.repeat(60)}.example.internal`;
  for (const name of ['files.efs-autoscale.internal', long]) {
    const now = Date.now();
    const { certificate, key } = await make(name, now);
    const read = new X509Certificate(certificate);
    assert.equal(read.checkHost(name), name);
    assert.equal(read.checkHost('other.internal'), undefined);
    assert(read.verify(read.publicKey) && read.checkIssued(read));
    assert(read.checkPrivateKey(createPrivateKey(key)));
    assert.equal(read.ca, false);
    assert.deepEqual(read.keyUsage, ['1.3.6.1.5.5.7.3.1'], 'of a server');
    assert.equal(read.publicKey.asymmetricKeyDetails?.namedCurve, 'prime256v1');
    assert(Date.parse(read.validFrom) < now && Date.parse(read.validTo) > now + 9 * 365 * 86_400_000);
  }
  const [one, other] = await Promise.all([make('a.b.c'), make('a.b.c')]);
  assert.notEqual(one.key, other.key);
});

test('a client that is given the certificate trusts the server that has it, and no other', async (t) => {
  const name = 'files.efs-autoscale.internal';
  const [served, other] = await Promise.all([make(name), make(name)]);
  const server = createTlsServer({ cert: served.certificate, key: served.key }, (socket) => socket.end('well')).on(
    'tlsClientError',
    () => {},
  );
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  const heard = (ca: string, servername: string) =>
    new Promise<string>((done, failed) => {
      const socket = connect({ host: '127.0.0.1', port, ca, servername }).on('error', failed);
      socket.on('data', (data) => done(String(data)));
    });
  assert.equal(await heard(served.certificate, name), 'well');
  await assert.rejects(heard(other.certificate, name));
  await assert.rejects(heard(served.certificate, 'other.internal'), { code: 'ERR_TLS_CERT_ALTNAME_INVALID' });
});

test('CloudFormation is told the ARN of what ACM has taken', async (t) => {
  for (const RequestType of ['Create', 'Update'] as const) {
    const { asked, told, event } = await world(t, makes);
    await handler(event({ RequestType, PhysicalResourceId: RequestType === 'Update' ? 'arn:old' : undefined }));
    const [{ operation, body }, ...others] = asked as [Heard];
    assert.deepEqual([operation, others.length], ['ImportCertificate', 0]);
    assert.deepEqual(body.Tags, [{ Key: 'efs-autoscale', Value: 'efs-mount-autoscaling' }]);
    const certificate = new X509Certificate(Buffer.from(body.Certificate, 'base64'));
    assert.equal(certificate.checkHost('files.example.internal'), 'files.example.internal');
    assert(certificate.checkPrivateKey(createPrivateKey(Buffer.from(body.PrivateKey, 'base64'))));
    assert.deepEqual(told, [
      // The address is signed for no type at all.
      {
        path: '/answer?X-Amz-Signature=1',
        type: '',
        Status: 'SUCCESS',
        PhysicalResourceId: ARN,
        StackId: 'stack',
        RequestId: 'request',
        LogicalResourceId: 'Made',
      },
    ]);
  }
});

test('CloudFormation is told why ACM has not', async (t) => {
  const { told, event } = await world(t, refuses('LimitExceededException'));
  await handler(event({}));
  assert.deepEqual(
    told.map(({ Status, Reason, PhysicalResourceId }) => [Status, Reason, PhysicalResourceId]),
    [['FAILED', 'LimitExceededException: not today', 'none']],
  );
  await handler(event({ RequestType: 'Update', PhysicalResourceId: ARN }));
  assert.equal(told[1].PhysicalResourceId, ARN, 'what was there stays');
});

test('what could not be made is deleted without ACM, and what is gone is deleted', async (t) => {
  const { asked, told, event } = await world(t, refuses('ResourceNotFoundException'));
  await handler(event({ RequestType: 'Delete', PhysicalResourceId: 'none' }));
  assert.equal(asked.length, 0);
  await handler(event({ RequestType: 'Delete', PhysicalResourceId: ARN }));
  assert.deepEqual(
    asked.map(({ operation, body }) => [operation, body]),
    [['DeleteCertificate', { CertificateArn: ARN }]],
  );
  assert.deepEqual(
    told.map(({ Status }) => Status),
    ['SUCCESS', 'SUCCESS'],
  );
});

test('one that the load balancer still has is asked for again, and at last given up', async (t) => {
  const wait = globalThis.setTimeout;
  t.mock.method(globalThis, 'setTimeout', ((what: () => void, ms?: number) =>
    wait(what, ms === 10_000 ? 0 : ms)) as typeof setTimeout);
  let busy = 2;
  const { asked, told, event } = await world(t, (heard) =>
    busy-- > 0 ? refuses('ResourceInUseException')(heard) : { status: 200, body: {} },
  );
  await handler(event({ RequestType: 'Delete', PhysicalResourceId: ARN }));
  assert.deepEqual([asked.length, told[0].Status], [3, 'SUCCESS']);
  busy = Infinity;
  await handler(event({ RequestType: 'Delete', PhysicalResourceId: ARN }));
  assert.deepEqual(
    [asked.length, told[1].Status, told[1].Reason],
    [3 + 8, 'FAILED', 'ResourceInUseException: not today'],
  );
});

test('an answer that CloudFormation does not take fails the function, so that its log says so', async (t) => {
  const { event } = await world(t, makes, 403);
  await assert.rejects(handler(event({})), /403/);
});
