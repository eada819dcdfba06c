//! The adapters, against answers as AWS gives them: mocks for the logic, replayed HTTP for everything
//! that goes through the SDK's parsing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

use aws::Aws;
use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig};
use aws_sdk_efs::{
    operation::describe_mount_targets::DescribeMountTargetsOutput,
    types::{LifeCycleState, MountTargetDescription},
};
use aws_smithy_http_client::test_util::{ReplayEvent, StaticReplayClient};
use aws_smithy_mocks::{RuleMode, mock, mock_client};
use aws_smithy_types::body::SdkBody;
use domain::{
    config::{IpAddressType, ParameterType, ServiceName},
    error::{AwsError, CreateFailure, PutFailure, UpdateFailure},
    model::{FileSystemId, LifeCycle, ParameterName, SecurityGroupId, SubnetId, VpcId},
    ports::{
        CreateTarget, DeleteParameter, DescribeFileSystem, DescribeService, ListSubnets, ListTargets, ReadParameters,
        Redeploy, WriteParameter,
    },
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn config() -> aws_types::sdk_config::Builder {
    // No retry: each test says what one answer means.
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .endpoint_url("http://127.0.0.1:1")
        .credentials_provider(aws_sdk_efs::config::SharedCredentialsProvider::new(
            aws_sdk_efs::config::Credentials::for_tests(),
        ))
        .retry_config(RetryConfig::disabled())
}

/// A client that gets these answers, and what it asked.
fn replay(answers: &[(u16, &str, &str)]) -> (Aws, StaticReplayClient) {
    let events = answers
        .iter()
        .map(|(status, error_type, body)| {
            let request = http::Request::builder().body(SdkBody::empty()).unwrap();
            let mut response = http::Response::builder().status(*status).header("x-amzn-requestid", "the-request");
            // The REST APIs name the error in a header, the others in the body.
            if !error_type.is_empty() {
                response = response.header("x-amzn-errortype", *error_type);
            }
            let response = response.body(SdkBody::from(*body)).unwrap();
            ReplayEvent::new(request, response)
        })
        .collect();
    let client = StaticReplayClient::new(events);
    (Aws::new(&config().http_client(client.clone()).build()), client)
}

fn file_system() -> FileSystemId {
    FileSystemId::new("fs-1")
}

fn described(id: &str) -> MountTargetDescription {
    MountTargetDescription::builder()
        .mount_target_id(id)
        .file_system_id("fs-1")
        .subnet_id("subnet-1")
        .life_cycle_state(LifeCycleState::Available)
        .availability_zone_id("use1-az1")
        .availability_zone_name("us-east-1a")
        .ip_address("10.0.0.4")
        .build()
        .unwrap()
}

fn mocked(efs: aws_sdk_efs::Client) -> Aws {
    Aws { efs, ..Aws::new(&config().build()) }
}

#[tokio::test]
async fn every_page_of_the_targets_is_read() {
    let first = mock!(aws_sdk_efs::Client::describe_mount_targets)
        .match_requests(|request| request.marker().is_none())
        .then_output(|| {
            let page = DescribeMountTargetsOutput::builder().next_marker("second");
            page.mount_targets(described("fsmt-1")).build()
        });
    let second = mock!(aws_sdk_efs::Client::describe_mount_targets)
        .match_requests(|request| request.marker() == Some("second"))
        .then_output(|| DescribeMountTargetsOutput::builder().mount_targets(described("fsmt-2")).build());
    let aws = mocked(mock_client!(aws_sdk_efs, RuleMode::MatchAny, [&first, &second]));
    let targets = aws.list_targets(&file_system()).await.unwrap();
    assert_eq!(targets.iter().map(|target| target.id.as_str()).collect::<Vec<_>>(), ["fsmt-1", "fsmt-2"]);
    assert_eq!((first.num_calls(), second.num_calls()), (1, 1));
}

#[tokio::test]
async fn a_target_may_have_no_ipv4_address() {
    let rule = mock!(aws_sdk_efs::Client::describe_mount_targets).then_output(|| {
        let mut without = described("fsmt-1");
        without.ip_address = None;
        let mut ipv6 = described("fsmt-2");
        ipv6.ip_address = Some("2001:db8::1".to_owned());
        DescribeMountTargetsOutput::builder().mount_targets(without).mount_targets(ipv6).build()
    });
    let aws = mocked(mock_client!(aws_sdk_efs, [&rule]));
    let targets = aws.list_targets(&file_system()).await.unwrap();
    assert!(targets.iter().all(|target| target.ip.is_none()));
}

#[tokio::test]
async fn a_state_that_nobody_knows_yet_is_not_lost() {
    let rule = mock!(aws_sdk_efs::Client::describe_mount_targets).then_output(|| {
        let mut target = described("fsmt-1");
        target.life_cycle_state = LifeCycleState::from("hibernating");
        DescribeMountTargetsOutput::builder().mount_targets(target).build()
    });
    let aws = mocked(mock_client!(aws_sdk_efs, [&rule]));
    let targets = aws.list_targets(&file_system()).await.unwrap();
    assert_eq!(targets[0].state, LifeCycle::Unknown);
    assert!(targets[0].occupies_its_zone());
}

/// What the caller does about each error that the API reference documents for `CreateMountTarget`.
#[tokio::test]
async fn every_documented_error_of_create_mount_target_is_mapped() {
    for (status, code, expected) in [
        (400, "BadRequest", "subnet"),
        (404, "FileSystemNotFound", "stop"),
        (409, "IncorrectFileSystemLifeCycleState", "not now"),
        (500, "InternalServerError", "uncertain"),
        (409, "IpAddressInUse", "subnet"),
        (409, "MountTargetConflict", "conflict"),
        (409, "NetworkInterfaceLimitExceeded", "stop"),
        (409, "NoFreeAddressesInSubnet", "subnet"),
        (400, "SecurityGroupLimitExceeded", "stop"),
        (400, "SecurityGroupNotFound", "stop"),
        (400, "SubnetNotFound", "subnet"),
        (404, "SubnetNotFound", "subnet"),
        (400, "UnsupportedAvailabilityZone", "zone"),
        (400, "AvailabilityZonesMismatch", "zone"),
        // Of every API.
        (400, "ThrottlingException", "throttled"),
        (429, "TooManyRequestsException", "throttled"),
        (503, "ServiceUnavailable", "uncertain"),
        (403, "AccessDeniedException", "subnet"),
        (403, "UnrecognizedClientException", "stop"),
        (403, "ExpiredTokenException", "not now"),
        (400, "OutpostSubnetsAreNotSupported", "subnet"),
    ] {
        let body = format!(r#"{{"ErrorCode":"{code}","Message":"as the API says"}}"#);
        let (aws, _) = replay(&[(status, code, body.as_str())]);
        let groups = [SecurityGroupId::new("sg-1")];
        let failure = aws
            .create_target(&file_system(), &SubnetId::new("subnet-1"), &groups, IpAddressType::Ipv4Only)
            .await
            .unwrap_err();
        let found = match &failure {
            CreateFailure::Conflict(_) => "conflict",
            CreateFailure::Subnet(_) => "subnet",
            CreateFailure::Zone(_) => "zone",
            CreateFailure::Later(_) => "not now",
            CreateFailure::Aws(AwsError::Unavailable(_)) => "uncertain",
            CreateFailure::Aws(AwsError::Throttled(_)) => "throttled",
            CreateFailure::Aws(AwsError::Refused(_)) => "stop",
        };
        assert_eq!(found, expected, "{code}");
        assert_eq!(
            failure.to_string(),
            format!("efs:CreateMountTarget fs-1 in subnet-1: {code}: as the API says (request id the-request)")
        );
    }
}

#[tokio::test]
async fn a_created_target_that_is_not_fully_described_is_not_taken_for_a_refusal() {
    let body = r#"{"MountTargetId":"fsmt-1","FileSystemId":"fs-1","SubnetId":"subnet-1","LifeCycleState":"creating"}"#;
    let (aws, _) = replay(&[(200, "", body)]);
    let failure =
        aws.create_target(&file_system(), &SubnetId::new("subnet-1"), &[], IpAddressType::Ipv4Only).await.unwrap_err();
    assert!(matches!(failure, CreateFailure::Aws(AwsError::Unavailable(_))));
}

#[tokio::test]
async fn a_file_system_that_does_not_exist_is_none() {
    let body = r#"{"ErrorCode":"FileSystemNotFound","Message":"gone"}"#;
    let (aws, _) = replay(&[(404, "FileSystemNotFound", body), (404, "FileSystemNotFound", body)]);
    assert_eq!(aws.describe_file_system(&file_system()).await.unwrap(), None);
    assert!(aws.list_targets(&file_system()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_refused_before_the_call() {
    let (aws, client) = replay(&[]);
    let name = ParameterName::new("/a");
    let failure = aws.write_parameter(&name, &"x".repeat(4097), ParameterType::String).await.unwrap_err();
    assert!(matches!(failure, PutFailure::TooLarge(_)));
    assert!(failure.to_string().contains("4097"));
    assert_eq!(client.actual_requests().count(), 0);
    let (aws, client) = replay(&[(200, "", r#"{"Version":7}"#)]);
    assert_eq!(aws.write_parameter(&name, &"x".repeat(4096), ParameterType::SecureString).await.unwrap(), 7);
    let request = client.actual_requests().next().unwrap();
    let sent = String::from_utf8_lossy(request.body().bytes().unwrap()).into_owned();
    assert!(sent.contains("\"SecureString\"") && sent.contains("\"Overwrite\":true") && sent.contains("\"Standard\""));
}

#[tokio::test]
async fn errors_of_systems_manager_are_told_apart() {
    let name = ParameterName::new("/a");
    let body = |code: &str| format!(r#"{{"__type":"{code}","message":"why"}}"#);
    let mismatch = body("HierarchyTypeMismatchException");
    let (aws, _) = replay(&[(400, "", &mismatch)]);
    let failure = aws.write_parameter(&name, "x", ParameterType::SecureString).await.unwrap_err();
    assert!(matches!(failure, PutFailure::TypeMismatch(_)));

    let throttled = body("ThrottlingException");
    let (aws, _) = replay(&[(400, "", &throttled), (400, "", &throttled)]);
    assert!(matches!(aws.read_parameters(std::slice::from_ref(&name)).await.unwrap_err(), AwsError::Throttled(_)));
    let failure = aws.write_parameter(&name, "x", ParameterType::String).await.unwrap_err();
    assert!(matches!(failure, PutFailure::Aws(AwsError::Throttled(_))));

    let (aws, _) = replay(&[(400, "", &body("ParameterNotFound"))]);
    aws.delete_parameter(&name).await.unwrap();
}

#[tokio::test]
async fn more_parameters_than_one_call_takes_are_read_in_several() {
    let answer = r#"{"Parameters":[{"Name":"/9","Value":"v","Version":3}],"InvalidParameters":["/1"]}"#;
    let (aws, client) = replay(&[(200, "", answer), (200, "", r#"{"Parameters":[]}"#)]);
    let names: Vec<_> = (0..12).map(|number| ParameterName::new(format!("/{number}"))).collect();
    let found = aws.read_parameters(&names).await.unwrap();
    assert_eq!((found.len(), found[&ParameterName::new("/9")].version), (1, 3));
    assert_eq!(client.actual_requests().count(), 2);
}

#[tokio::test]
async fn errors_of_ec2_are_xml() {
    let error = "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>slow down</Message></Error></Errors><RequestID>r-1</RequestID></Response>";
    let (aws, _) = replay(&[(503, "", error)]);
    let failure = aws.list_subnets(&VpcId::new("vpc-1"), &[]).await.unwrap_err();
    assert!(matches!(failure, AwsError::Throttled(_)), "{failure}");
    assert!(failure.to_string().starts_with("ec2:DescribeSubnets vpc-1: RequestLimitExceeded: slow down"));
}

#[tokio::test]
async fn a_service_with_too_many_deployments_is_busy() {
    let name = ServiceName { cluster: "c".into(), service: "s".into() };
    let busy = r#"{"__type":"InvalidParameterException","message":"Unable to update the service: too many active deployments"}"#;
    let (aws, _) = replay(&[(400, "", busy)]);
    assert!(matches!(aws.redeploy(&name).await.unwrap_err(), UpdateFailure::Busy(_)));
    let missing = r#"{"__type":"ServiceNotFoundException","message":"gone"}"#;
    let (aws, _) = replay(&[(400, "", missing)]);
    assert!(matches!(aws.redeploy(&name).await.unwrap_err(), UpdateFailure::Aws(AwsError::Refused(_))));
}

#[tokio::test]
async fn a_rollback_is_seen_while_it_fails_and_afterwards() {
    let name = ServiceName { cluster: "c".into(), service: "s".into() };
    let service = |deployment: &str| format!(r#"{{"services":[{{"status":"ACTIVE","deployments":[{deployment}]}}]}}"#);
    for (deployment, expected) in [
        (r#"{"id":"1","status":"PRIMARY","rolloutState":"COMPLETED"}"#, false),
        (r#"{"id":"1","status":"ACTIVE","rolloutState":"FAILED"}"#, true),
        (
            r#"{"id":"1","status":"PRIMARY","rolloutState":"COMPLETED","rolloutStateReason":"ECS deployment circuit breaker: rolling back to deploymentId ecs-svc/0."}"#,
            true,
        ),
    ] {
        let (aws, _) = replay(&[(200, "", &service(deployment))]);
        assert_eq!(aws.describe_service(&name).await.unwrap().unwrap().rolled_back(), expected, "{deployment}");
    }
    let (aws, _) = replay(&[(200, "", r#"{"services":[{"status":"INACTIVE"}],"failures":[]}"#)]);
    assert_eq!(aws.describe_service(&name).await.unwrap(), None);
}

#[tokio::test]
async fn a_connection_that_fails_is_tried_again_later() {
    let aws = Aws::new(&config().build());
    let failure = aws.list_targets(&file_system()).await.unwrap_err();
    assert!(matches!(failure, AwsError::Unavailable(_)), "{failure}");
    assert!(failure.to_string().contains("ConnectionFailed"), "{failure}");
}

/// A page of a proxy in between, a body that is none, an error without a code: nobody knows what the service did.
#[tokio::test]
async fn only_a_response_of_the_service_is_a_refusal() {
    let page = "<html>\n  <h1>Blocked by policy</h1></html>";
    for (status, body) in
        [(403, page), (200, page), (302, ""), (400, "{}"), (404, ""), (407, page), (429, page), (200, "{\"Mount")]
    {
        let uncertain = |failure: &AwsError, resource: &str| {
            let text = failure.to_string();
            assert!(matches!(failure, AwsError::Unavailable(_)), "{status} {body}: {text}");
            // An answer of 200 without a field is incomplete, and not somebody else's.
            assert!(text.contains(resource) && text.contains(&format!("HTTP {status} ")), "{text}");
            assert!(body != page || text.contains("Blocked by policy"), "{text}");
        };
        let name = ParameterName::new("/list");
        let service = ServiceName { cluster: "c".into(), service: "files".into() };
        let answers = vec![(status, "", body); 5];
        let (aws, _) = replay(&answers);
        match aws
            .create_target(&file_system(), &SubnetId::new("subnet-1"), &[], IpAddressType::Ipv4Only)
            .await
            .unwrap_err()
        {
            CreateFailure::Aws(failure) => uncertain(&failure, "efs:CreateMountTarget fs-1 in subnet-1: "),
            failure => panic!("{status} {body}: {failure:?}"),
        }
        uncertain(&aws.list_targets(&file_system()).await.unwrap_err(), "efs:DescribeMountTargets fs-1: ");
        match aws.write_parameter(&name, "x", ParameterType::String).await.unwrap_err() {
            PutFailure::Aws(failure) => uncertain(&failure, "ssm:PutParameter /list: "),
            failure => panic!("{status} {body}: {failure:?}"),
        }
        match aws.redeploy(&service).await.unwrap_err() {
            UpdateFailure::Aws(failure) => uncertain(&failure, "ecs:UpdateService c/files: "),
            failure => panic!("{status} {body}: {failure:?}"),
        }
        uncertain(&aws.list_subnets(&VpcId::new("vpc-1"), &[]).await.unwrap_err(), "ec2:DescribeSubnets vpc-1: ");
    }
}

/// FIN or RST instead of a response, half of its head, half of its body, something that is no HTTP.
#[tokio::test]
async fn a_connection_that_ends_says_nothing_for_certain() {
    for sent in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Ty",
        "HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{\"Mount",
        "\x16 no HTTP\r\n\r\n",
    ] {
        for reset in [false, true] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            let server = tokio::spawn(async move {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let _part = connection.read(&mut request).await.unwrap();
                connection.write_all(sent.as_bytes()).await.unwrap();
                if reset {
                    connection.set_zero_linger().unwrap();
                }
            });
            let aws = Aws::new(&config().endpoint_url(endpoint).build());
            let failure = aws
                .create_target(&file_system(), &SubnetId::new("subnet-1"), &[], IpAddressType::Ipv4Only)
                .await
                .unwrap_err();
            server.await.unwrap();
            assert!(matches!(failure, CreateFailure::Aws(AwsError::Unavailable(_))), "{sent:?} {reset}: {failure:?}");
        }
    }
}

/// Where nothing is said, EFS is asked as ever; else in its own words. What it answers has either address, or both.
#[tokio::test]
async fn addresses_of_ipv6_are_asked_for_and_read() {
    let body = |addresses: &str| {
        format!(
            r#"{{"MountTargetId":"fsmt-1","FileSystemId":"fs-1","SubnetId":"subnet-1","LifeCycleState":"creating",
                "AvailabilityZoneId":"use1-az1","AvailabilityZoneName":"us-east-1a"{addresses}}}"#
        )
    };
    let v6 = r#","Ipv6Address":"2001:db8::5""#;
    for (addresses, asked, answer, expected) in [
        (IpAddressType::Ipv4Only, None, r#","IpAddress":"10.0.0.5""#.to_owned(), (true, false)),
        (IpAddressType::DualStack, Some("DUAL_STACK"), format!(r#","IpAddress":"10.0.0.5"{v6}"#), (true, true)),
        (IpAddressType::Ipv6Only, Some("IPV6_ONLY"), v6.to_owned(), (false, true)),
    ] {
        let (aws, client) = replay(&[(200, "", body(&answer).as_str())]);
        let made = aws.create_target(&file_system(), &SubnetId::new("subnet-1"), &[], addresses).await.unwrap();
        assert_eq!((made.ip.is_some(), made.ipv6.is_some()), expected);
        assert_eq!(made.address().unwrap().is_ipv4(), expected.0);
        let request = client.actual_requests().next().unwrap();
        let sent: serde_json::Value = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
        assert_eq!(sent["IpAddressType"].as_str(), asked);
    }
}
