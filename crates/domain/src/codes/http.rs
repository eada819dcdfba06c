//! The errors of the file service's HTTP API. `crates/file-service/tests/codes.rs` compares.

use super::entries;

entries! {
    TABLE: HttpError;
    BAD_PATH = "BadPath" {
        meaning: "400: the path of the request is not a valid path of a file.",
        cause: "It is empty or absolute, has an empty component, `.`, `..` or NUL, more than 255 components, a \
                component over 255 bytes or beginning with `.efs-router.`, more than 4096 bytes, a `%` without two \
                hexadecimal digits, or a raw `#`.",
        remedy: [
            "Percent-encode each component once: `%23` for `#`, `%3F` for `?`, `%25` for `%`.",
            "The message names the rule that the path breaks.",
        ],
    }
    BAD_NAME = "BadName" {
        meaning: "400: the file system rejects a name in the path.",
        cause: "The name is too long for the file system, or it is not UTF-8.",
        remedy: ["Use names of at most 255 bytes in UTF-8."],
    }
    BAD_QUERY = "BadQuery" {
        meaning: "400: the query of the request has a key or a value that means nothing here.",
        cause: "A write has a query other than `?append` of POST, a list has one other than `limit` and `from`, or a \
                raw `?` is part of a name.",
        remedy: ["Write a `?` in a name as `%3F`. Use `limit` from 1 to 10000, and as `from` what `next` says."],
    }
    BAD_HEADER = "BadHeader" {
        meaning: "400: a header or trailer field is invalid, or the service cannot honour it.",
        cause: "Host is missing or repeated, a condition is not one by the grammar of RFC 9110, DELETE has content, or \
                a write has a field such as `Content-Range` or `Content-MD5` that would have to be ignored.",
        remedy: [
            "The message names the field: leave it out, or correct it.",
            "`docs/reference/http.md` lists the fields that a write refuses.",
        ],
    }
    BAD_CURSOR = "BadCursor" {
        meaning: "400: the `from` of a list is not the `next` of an earlier page.",
        cause: "The value was changed, or the directory changed so much that the server does not know the position any \
                more.",
        remedy: ["List the directory again from the beginning, without `from`."],
    }
    BAD_FRAMING = "BadFraming" {
        meaning: "400: where the request ends is ambiguous, so the connection is closed and nothing is stored.",
        cause: "The request has both Content-Length and Transfer-Encoding, or its chunks are malformed. A proxy on the \
                way or the client builds the request wrongly.",
        remedy: ["Send either Content-Length or `Transfer-Encoding: chunked`, with an HTTP library."],
    }
    NO_TOKEN = "NoToken" {
        meaning: "401: the request has no valid token.",
        cause: "`Authorization` is missing, repeated, or has another token. After a change of the token, tasks that \
                have not been redeployed still accept the old one.",
        remedy: [
            "Send `Authorization: Bearer TOKEN`.",
            "Read the token: `aws secretsmanager get-secret-value --secret-id ARN --query SecretString --output text`, \
             with the stack's output `TokenArn`.",
            "After a change of the token, redeploy: `aws ecs update-service --cluster efs-mount-autoscaling-cluster \
             --service efs-mount-autoscaling-fargate --force-new-deployment`.",
        ],
    }
    LINK_IN_PATH = "LinkInPath" {
        meaning: "403: the path leads through a symbolic link; the service never follows links.",
        cause: "A component of the path is a symbolic link, or the path leaves the root.",
        remedy: ["Name the file by its real path, or replace the link by what it points to."],
    }
    DENIED = "Denied" {
        meaning: "403: the file system denies access.",
        cause: "The user of the service or of its access point may not read or write the file or directory, the file \
                system is read-only, or its policy does not allow the role to write.",
        remedy: [
            "Compare owner and mode of the file with the user of the access point: `aws efs describe-access-points \
             --file-system-id fs-…`.",
            "For every write: allow `elasticfilesystem:ClientWrite` to the task's role in the file system policy.",
        ],
    }
    NOT_FOUND = "NotFound" {
        meaning: "404: there is no such file or directory.",
        cause: "It was never written, or it was deleted. The kernel's NFS client (`BACKEND=mounted`) may say so for up \
                to a minute after another task wrote it.",
        remedy: ["Check the path; `GET /list/DIRECTORY` shows what there is."],
    }
    NO_SUCH_ADDRESS = "NoSuchAddress" {
        meaning: "404: the service has no such address.",
        cause: "The path does not begin with `/files/`, `/list/` or `/route/`, and is not `/targets`, `/metrics`, \
                `/healthz` or `/readyz`.",
        remedy: ["Correct the address: files are below `/files/`."],
    }
    NO_SUCH_METHOD = "NoSuchMethod" {
        meaning: "405: the address does not take this method; `Allow` lists those that it takes.",
        cause: "A file takes GET, HEAD, PUT, DELETE, and POST with `?append`; everything else takes GET and HEAD.",
        remedy: ["Use one of the methods in `Allow`."],
    }
    INCOMPLETE_BODY = "IncompleteBody" {
        meaning: "408: the body did not arrive whole, and nothing was stored.",
        cause: "The client sent nothing for `IDLE_SECONDS`, or ended its connection.",
        remedy: ["Send the request again. If it repeats, look at the network and the timeouts of the client."],
    }
    SLOW_BODY = "SlowBody" {
        meaning: "408: the body arrived too slowly, and nothing was stored.",
        cause: "The client sent fewer than `MIN_BODY_BYTES_PER_SECOND` over `IDLE_SECONDS`.",
        remedy: ["Send the request again, over a faster network, or lower `MIN_BODY_BYTES_PER_SECOND` of the service."],
    }
    NOT_A_DIRECTORY = "NotADirectory" {
        meaning: "409: a component of the path is a file, not a directory.",
        cause: "A file has the name that the path uses for a directory.",
        remedy: ["Use another path, or delete the file first."],
    }
    IS_A_DIRECTORY = "IsADirectory" {
        meaning: "409: the path names a directory where a file is expected.",
        cause: "A directory has this name. A path that was a directory cannot become a file through the service.",
        remedy: ["Use another path; `GET /list/DIRECTORY` lists what is in it."],
    }
    NOT_A_FILE = "NotAFile" {
        meaning: "409: the path names a socket, a device or a pipe.",
        cause: "Another client of the file system created it.",
        remedy: ["Use another path, or delete it where the file system is mounted."],
    }
    NO_LENGTH = "NoLength" {
        meaning: "411: a write has neither Content-Length nor chunks.",
        cause: "The client sent no length, not even 0 for an empty file.",
        remedy: ["Send Content-Length, or `Transfer-Encoding: chunked`."],
    }
    PRECONDITION_FAILED = "PreconditionFailed" {
        meaning: "412: the file does not meet If-Match, If-None-Match or If-Unmodified-Since; nothing was changed.",
        cause: "Somebody else created or changed the file since the client read it.",
        remedy: ["Read the file again, apply the change to the new content, and write it with the new ETag."],
    }
    TOO_LARGE = "TooLarge" {
        meaning: "413: the body, or the file that it would make, is too large.",
        cause: "The body exceeds the service's maximum (an append: 1 MiB), or a limit of the file system is exceeded.",
        remedy: ["Split the content over several files, or append it in pieces of at most 1 MiB."],
    }
    TOO_LONG_PATH = "TooLongPath" {
        meaning: "414: the request line is longer than the longest path needs.",
        cause: "The request line exceeds 16 KiB.",
        remedy: ["Use a shorter path: at most 4096 bytes before it is percent-encoded."],
    }
    UNSUPPORTED_CODING = "UnsupportedCoding" {
        meaning: "415 or 501: the content has a coding that the service cannot decode.",
        cause: "415: `Content-Encoding` other than `identity`, with which readers would get encoded content. 501: a \
                transfer coding other than `chunked`.",
        remedy: ["Send the content as the file is to be. Compressed content is stored as it is without \
                  `Content-Encoding`."],
    }
    UNSUPPORTED_TYPE = "UnsupportedType" {
        meaning: "415: the content is wrapped as `multipart/…`.",
        cause: "The client sends a form; its envelope would become part of the file.",
        remedy: ["Send the content alone as the body: `curl --upload-file FILE`, not `curl --form`."],
    }
    UNSUPPORTED_EXPECTATION = "UnsupportedExpectation" {
        meaning: "417: the request has an expectation other than `100-continue`.",
        cause: "The client or a proxy sent another value in `Expect`.",
        remedy: ["Leave `Expect` out, or send `100-continue`."],
    }
    NO_METRICS = "NoMetrics" {
        meaning: "500: the metrics could not be written as text.",
        cause: "A bug of the service.",
        remedy: ["File an issue with the message. Files are served all the same."],
    }
    UNSUPPORTED = "Unsupported" {
        meaning: "501: the file system does not support the operation.",
        cause: "For example `If-None-Match: *` on a file system without hard links, or a lock where there are none.",
        remedy: ["Use the operation on Amazon EFS, or do without the condition."],
    }
    TARGET_FAILED = "TargetFailed" {
        meaning: "502: the mount target, or the network to it, failed; a write changed nothing.",
        cause: "The server answered with an error that the request did not cause, or the connection failed. The log \
                has the NFS status.",
        remedy: [
            "Try again: paths of a mount target that is down go to another one.",
            "`GET /targets` says which mount target fails and why; see the alarm `TargetDown`.",
            "`docs/reference/nfs41.md` lists the NFS statuses behind this code.",
        ],
    }
    SHORTENED = "Shortened" {
        meaning: "502: the file was truncated while it was read.",
        cause: "Another client of the file system truncated it in place. The service itself replaces files atomically.",
        remedy: ["Read the file again. Let other clients replace files by rename."],
    }
    BUSY = "Busy" {
        meaning: "503: the mount target of the path is at capacity; nothing was done.",
        cause: "All its threads and its queue, or all its connections, are in use, or the server asks to come back \
                later. The mount target is slow, or there is more load than it can take.",
        remedy: [
            "Try again after `Retry-After`.",
            "If it persists, look at latency and refusals by mount target on the dashboard, and at the alarm \
             `IoLimit`.",
            "Raise `service.desiredCount` or `service.size`; with `BACKEND=mounted` also `THREADS_PER_TARGET`.",
        ],
    }
    FENCED = "Fenced" {
        meaning: "503: an earlier write of this path has not ended; nothing was done.",
        cause: "A mount target did not answer an earlier write, which may still happen. Until it has ended, this task \
                refuses other writes of the path, so that the late one cannot cover them.",
        remedy: [
            "Try again after `Retry-After`.",
            "If it persists, the mount target hangs: see the alarm `TargetDown`.",
        ],
    }
    LOCKED = "Locked" {
        meaning: "503: another client holds a lock on the file; nothing was done.",
        cause: "A conditional write or an append waited for a lock that another task or another client of the file \
                system holds, or the file changed meanwhile.",
        remedy: [
            "Try again after `Retry-After`.",
            "If it persists, find the client that locks the file; a client that died loses its lock after its lease.",
        ],
    }
    NO_TARGET = "NoTarget" {
        meaning: "503: no mount target is healthy; nothing was done.",
        cause: "The task reaches none of the mount targets of the published list.",
        remedy: [
            "`GET /targets` says why for each; follow the remedy of the alarm `TargetDown`.",
            "Check that the list names existing mount targets: `efs-autoscale status`.",
        ],
    }
    TOO_MANY_CONNECTIONS = "TooManyConnections" {
        meaning: "503: the task has as many connections as it may have; the request was not read.",
        cause: "`MAX_CONNECTIONS`, or the limit of file descriptors, is reached: many clients, or clients that keep \
                connections without using them.",
        remedy: [
            "Try again after `Retry-After`; reuse connections in the clients.",
            "Raise `service.desiredCount`, or `MAX_CONNECTIONS` and the limit of file descriptors.",
        ],
    }
    DEADLINE = "Deadline" {
        meaning: "504: the mount target did not answer in time; nothing was changed, and nothing will be.",
        cause: "The mount target hangs or is slow. A write was stopped at the server.",
        remedy: [
            "Try again: a retry is safe.",
            "If it persists, see `TargetDown` and `IoLimit`.",
        ],
    }
    UNCERTAIN = "Uncertain" {
        meaning: "504: the write was done or never will be; which one is not known.",
        cause: "The connection or the session with the server was lost after the write was sent.",
        remedy: ["Read the file to see which; then write again if needed. An append may be there already."],
    }
    PENDING = "Pending" {
        meaning: "504: the write was started and may still happen.",
        cause: "No mount target answers, so the write could not be stopped. This task refuses other writes of the path \
                until it has ended.",
        remedy: [
            "Read the file before you write it again, and read it once more later.",
            "See the alarm `TargetDown`: the path is free when a mount target answers again.",
        ],
    }
    NO_SPACE = "NoSpace" {
        meaning: "507: the file system or the quota is full, or a directory or file has too many links.",
        cause: "EFS itself has no fixed size; a local file system or a quota has. EFS limits links to a file to 177.",
        remedy: ["Delete files, or raise the quota, then try again."],
    }
}
