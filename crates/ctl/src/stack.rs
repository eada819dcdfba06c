//! A CloudFormation stack of this system: its state, outputs, resources, and deletion.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use aws_sdk_cloudformation::{
    Client,
    error::ProvideErrorMetadata as _,
    types::{Capability, Parameter, ResourceStatus, StackResourceSummary, StackStatus},
};
use serde_json::{Value, json};

use crate::{account::CREDENTIALS_HINT, screen::Screen, wait::until};

/// Maximum size of a template in a call of UpdateStack; larger ones must be in S3.
const MAX_TEMPLATE_BYTES: usize = 51_200;

/// A stack as CloudFormation describes it.
#[derive(Clone, Debug)]
pub struct Stack {
    pub name: String,
    /// The ARN, which still identifies the stack after its deletion.
    pub id: String,
    pub status: StackStatus,
    reason: Option<String>,
    pub is_protected: bool,
    outputs: BTreeMap<String, String>,
    parameters: Vec<String>,
}

/// Name of the data stack that belongs to this system stack.
pub fn data_stack_name(system: &str) -> String {
    format!("{system}-data")
}

impl Stack {
    /// Returns `None` if the stack does not exist or is deleted.
    ///
    /// # Errors
    /// CloudFormation cannot be called.
    pub async fn find(client: &Client, name: &str) -> Result<Option<Self>> {
        let answer = match client.describe_stacks().stack_name(name).send().await {
            Err(err) if err.code() == Some("ValidationError") => return Ok(None),
            answer => answer.with_context(|| format!("cannot call CloudFormation ({CREDENTIALS_HINT})"))?,
        };
        let Some(stack) = answer.stacks().first() else { return Ok(None) };
        let status = stack.stack_status().cloned().unwrap_or(StackStatus::CreateComplete);
        if status == StackStatus::DeleteComplete {
            return Ok(None);
        }
        let text = |text: Option<&str>| text.map(str::to_owned);
        Ok(Some(Self {
            name: stack.stack_name().unwrap_or(name).to_owned(),
            id: stack.stack_id().unwrap_or(name).to_owned(),
            status,
            reason: text(stack.stack_status_reason()),
            is_protected: stack.enable_termination_protection().unwrap_or(false),
            outputs: stack
                .outputs()
                .iter()
                .filter_map(|one| Some((text(one.output_key())?, text(one.output_value())?)))
                .collect(),
            parameters: stack.parameters().iter().filter_map(|one| text(one.parameter_key())).collect(),
        }))
    }

    pub fn output(&self, key: &str) -> Option<&str> {
        self.outputs.get(key).map(String::as_str)
    }

    /// Its creation failed or never began: nothing in it is in use, and CloudFormation accepts no update.
    pub fn was_never_created(&self) -> bool {
        use StackStatus::{CreateFailed, ReviewInProgress, RollbackComplete, RollbackFailed};
        matches!(self.status, CreateFailed | ReviewInProgress | RollbackComplete | RollbackFailed)
    }

    /// An operation on the stack is in progress.
    pub fn is_changing(&self) -> bool {
        self.status != StackStatus::ReviewInProgress && self.status.as_str().ends_with("IN_PROGRESS")
    }

    /// The resources that are not deleted.
    ///
    /// # Errors
    /// CloudFormation cannot be called.
    pub async fn resources(&self, client: &Client) -> Result<Vec<StackResourceSummary>> {
        let mut found = self.all_resources(client).await?;
        found.retain(|one| one.resource_status() != Some(&ResourceStatus::DeleteComplete));
        Ok(found)
    }

    async fn all_resources(&self, client: &Client) -> Result<Vec<StackResourceSummary>> {
        let pages = client.list_stack_resources().stack_name(&self.id).into_paginator().items().send();
        let found = pages.collect::<Result<Vec<_>, _>>().await;
        found.with_context(|| format!("the resources of the stack {} cannot be listed", self.name))
    }

    /// The template as JSON; `None` if the stack has none yet.
    ///
    /// # Errors
    /// CloudFormation cannot be called.
    pub async fn template(&self, client: &Client) -> Result<Option<Value>> {
        let answer = match client.get_template().stack_name(&self.id).send().await {
            Err(err) if err.code() == Some("ValidationError") => return Ok(None),
            answer => answer.with_context(|| format!("the template of the stack {} cannot be read", self.name))?,
        };
        Ok(answer.template_body().and_then(|text| serde_json::from_str(text).ok()))
    }

    /// Disables termination protection.
    ///
    /// # Errors
    /// CloudFormation cannot be called, or refuses.
    pub async fn unprotect(&self, client: &Client) -> Result<()> {
        if self.is_protected {
            let request = client.update_termination_protection().stack_name(&self.name);
            let sent = request.enable_termination_protection(false).send().await;
            sent.with_context(|| format!("cannot disable the termination protection of the stack {}", self.name))?;
        }
        Ok(())
    }

    /// Waits until no operation on the stack is in progress.
    ///
    /// # Errors
    /// An operation is still in progress after `timeout`.
    pub async fn wait_until_idle(&self, client: &Client, timeout: Duration, screen: &Screen) -> Result<()> {
        until(screen, &format!("no operation on the stack {} is in progress", self.name), timeout, async || {
            let found = Self::find(client, &self.id).await?;
            Ok(found.filter(Self::is_changing).map(|stack| stack.status.as_str().to_owned()))
        })
        .await
    }

    /// Updates the stack so that a later deletion also deletes retained resources.
    ///
    /// # Errors
    /// The update fails.
    pub async fn remove_retention(&self, client: &Client, timeout: Duration, screen: &Screen) -> Result<()> {
        use StackStatus::{CreateComplete, UpdateComplete, UpdateRollbackComplete};
        if !matches!(self.status, CreateComplete | UpdateComplete | UpdateRollbackComplete) {
            return Ok(());
        }
        let Some(template) = self.template(client).await?.and_then(|template| without_retention(&template)) else {
            return Ok(());
        };
        if template.len() > MAX_TEMPLATE_BYTES {
            return Ok(());
        }
        let previous =
            self.parameters.iter().map(|key| Parameter::builder().parameter_key(key).use_previous_value(true).build());
        let request = client.update_stack().stack_name(&self.name).template_body(template);
        let request = request.set_parameters(Some(previous.collect())).capabilities(Capability::CapabilityNamedIam);
        let sent = request.send().await;
        sent.with_context(|| format!("cannot remove the deletion policies of the stack {}", self.name))?;
        until(screen, &format!("the stack {} is updated without deletion policies", self.name), timeout, async || {
            let found = Self::find(client, &self.id).await?.context("the stack no longer exists")?;
            match found.status {
                UpdateComplete => Ok(None),
                _ if found.is_changing() => Ok(Some(found.status.as_str().to_owned())),
                status => bail!("{status}: {}", found.reason.unwrap_or_default()),
            }
        })
        .await
    }

    /// Deletes the stack, protected or not, and waits until it is deleted. Returns the retained resources.
    ///
    /// # Errors
    /// A resource could not be deleted, or not in time.
    pub async fn delete(&self, client: &Client, timeout: Duration, screen: &Screen) -> Result<Vec<RemainingResource>> {
        self.wait_until_idle(client, timeout, screen).await?;
        self.unprotect(client).await?;
        let mut failed = self.try_delete(client, vec![], timeout, screen).await?;
        // A vault that contains backups cannot be deleted, and a teardown must not lose them: the vault and its key are
        // retained.
        if failed.iter().any(|one| one.kind == BACKUP_VAULT) && failed.iter().all(|one| one.kind == BACKUP_VAULT) {
            let kept = self.resources(client).await?;
            let kept = kept.iter().filter(|one| matches!(one.resource_type(), Some(BACKUP_VAULT | "AWS::KMS::Key")));
            let kept = kept.filter_map(|one| one.logical_resource_id().map(str::to_owned)).collect();
            failed = self.try_delete(client, kept, timeout, screen).await?;
        }
        if !failed.is_empty() {
            let failed: Vec<_> = failed.iter().map(|one| format!("{} {} ({})", one.kind, one.id, one.reason)).collect();
            bail!("the stack {} was not deleted: {}", self.name, failed.join("; "));
        }
        // Only for the report: CloudFormation may no longer list the resources of a deleted stack.
        let all = self.all_resources(client).await.unwrap_or_default();
        Ok(all
            .iter()
            .filter(|one| one.resource_status() == Some(&ResourceStatus::DeleteSkipped))
            .map(RemainingResource::from_summary)
            .collect())
    }

    /// Returns the resources whose deletion failed.
    async fn try_delete(
        &self,
        client: &Client,
        retain: Vec<String>,
        timeout: Duration,
        screen: &Screen,
    ) -> Result<Vec<RemainingResource>> {
        let retain = Some(retain).filter(|names| !names.is_empty());
        let sent = client.delete_stack().stack_name(&self.id).set_retain_resources(retain).send().await;
        sent.with_context(|| format!("the stack {} was not deleted", self.name))?;
        let mut failed = Vec::new();
        until(screen, &format!("the stack {} is deleted", self.name), timeout, async || {
            let Some(stack) = Self::find(client, &self.id).await? else { return Ok(None) };
            let resources = stack.resources(client).await?;
            if stack.status == StackStatus::DeleteFailed {
                let of_it = resources.iter().filter(|one| one.resource_status() == Some(&ResourceStatus::DeleteFailed));
                failed = of_it.map(RemainingResource::from_summary).collect();
                if failed.is_empty() {
                    let reason = stack.reason.unwrap_or_else(|| "see the stack events".to_owned());
                    failed.push(RemainingResource { kind: "stack".to_owned(), id: self.name.clone(), reason });
                }
                return Ok(None);
            }
            Ok(Some(progress(&resources)))
        })
        .await?;
        Ok(failed)
    }
}

const BACKUP_VAULT: &str = "AWS::Backup::BackupVault";

/// A resource that still exists after the deletion of its stack.
#[derive(Clone, Debug)]
pub struct RemainingResource {
    pub kind: String,
    pub id: String,
    pub reason: String,
}

impl RemainingResource {
    fn from_summary(resource: &StackResourceSummary) -> Self {
        Self {
            kind: resource.resource_type().unwrap_or_default().to_owned(),
            id: resource.physical_resource_id().or(resource.logical_resource_id()).unwrap_or_default().to_owned(),
            reason: resource.resource_status_reason().unwrap_or("CloudFormation gives no reason").to_owned(),
        }
    }

    /// The command that deletes it.
    pub fn command(&self) -> String {
        let id = &self.id;
        match self.kind.as_str() {
            "AWS::EFS::FileSystem" => format!("aws efs delete-file-system --file-system-id {id}"),
            "AWS::EFS::MountTarget" => format!("aws efs delete-mount-target --mount-target-id {id}"),
            "AWS::EFS::AccessPoint" => format!("aws efs delete-access-point --access-point-id {id}"),
            "AWS::KMS::Key" => format!("aws kms schedule-key-deletion --key-id {id} --pending-window-in-days 7"),
            BACKUP_VAULT => format!(
                "aws backup list-recovery-points-by-backup-vault --backup-vault-name {id}, aws backup \
                 delete-recovery-point for each, then aws backup delete-backup-vault --backup-vault-name {id}"
            ),
            "AWS::S3::Bucket" => format!("aws s3 rb --force s3://{id}"),
            "AWS::Logs::LogGroup" => format!("aws logs delete-log-group --log-group-name {id}"),
            "AWS::SecretsManager::Secret" => format!("aws secretsmanager delete-secret --secret-id {id}"),
            "AWS::EC2::VPC" => format!("aws ec2 delete-vpc --vpc-id {id}"),
            "AWS::EC2::Subnet" => format!("aws ec2 delete-subnet --subnet-id {id}"),
            "AWS::EC2::SecurityGroup" => format!("aws ec2 delete-security-group --group-id {id}"),
            kind => format!("aws cloudcontrol delete-resource --type-name {kind} --identifier {id}"),
        }
    }
}

/// Progress of a deletion.
fn progress(resources: &[StackResourceSummary]) -> String {
    let deleting = resources.iter().find(|one| one.resource_status() == Some(&ResourceStatus::DeleteInProgress));
    let mut text = format!("{} resources left", resources.len());
    if let Some(kind) = deleting.and_then(|one| one.resource_type()) {
        text += &format!(", {kind} is being deleted");
        if kind == "AWS::Lambda::Function" {
            text += " (Lambda releases its network interfaces after 25 to 45 minutes)";
        }
    }
    text
}

/// The template without retained resources; `None` if it retains nothing.
fn without_retention(template: &Value) -> Option<String> {
    let mut template = template.clone();
    let resources = template.get_mut("Resources")?.as_object_mut()?;
    let mut changed = false;
    for resource in resources.values_mut().filter_map(Value::as_object_mut) {
        for policy in ["DeletionPolicy", "UpdateReplacePolicy"] {
            if let Some(value) = resource.get_mut(policy)
                && value.as_str().is_some_and(|value| value.starts_with("Retain"))
            {
                *value = json!("Delete");
                changed = true;
            }
        }
    }
    // CloudFormation rejects an update that changes nothing but policies.
    resources.insert("Teardown".to_owned(), json!({"Type": "AWS::CloudFormation::WaitConditionHandle"}));
    changed.then(|| template.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_retained_is_let_go() {
        let template = json!({"Resources": {
            "Files": {"Type": "AWS::EFS::FileSystem", "DeletionPolicy": "RetainExceptOnCreate", "UpdateReplacePolicy": "Retain"},
            "Key": {"Type": "AWS::KMS::Key", "DeletionPolicy": "Retain"},
            "Queue": {"Type": "AWS::SQS::Queue"},
        }});
        let released: Value = serde_json::from_str(&without_retention(&template).unwrap()).unwrap();
        assert_eq!(released["Resources"]["Files"]["DeletionPolicy"], "Delete");
        assert_eq!(released["Resources"]["Files"]["UpdateReplacePolicy"], "Delete");
        assert_eq!(released["Resources"]["Key"]["DeletionPolicy"], "Delete");
        assert_eq!(released["Resources"]["Teardown"]["Type"], "AWS::CloudFormation::WaitConditionHandle");
        assert_eq!(without_retention(&json!({"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}})), None);
        assert_eq!(without_retention(&json!({})), None);
    }
}
