//! The test suite of `object_store` itself, on the files of temporary directories; and what it does not cover.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

use std::{os::unix::fs::symlink, sync::Arc};

use bytes::Bytes;
use files::{Files, Options, PublishedList};
use files_object_store::EfsStore;
use futures_util::TryStreamExt as _;
use object_store::{
    Error, GetOptions, GetRange, MultipartUpload as _, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    integration, path::Path,
};
use tempfile::TempDir;

/// Two targets, which show one file system.
async fn store() -> (EfsStore, TempDir) {
    let base = tempfile::tempdir().unwrap();
    std::fs::create_dir(base.path().join("root")).unwrap();
    let targets = (0..2).map(|index| {
        symlink(base.path().join("root"), base.path().join(format!("efs-{index}"))).unwrap();
        format!(r#"{{"mount_target_id":"fsmt-{index}","ip_address":"10.0.{index}.5","availability_zone":"z{index}","subnet_id":"subnet-{index}"}}"#)
    });
    let list = format!(r#"{{"mount_targets":[{}]}}"#, targets.collect::<Vec<_>>().join(","));
    let backend = files_mounted::Options { base: base.path().into(), ..files_mounted::Options::default() };
    let files = Files::start(PublishedList::parse(&list).unwrap(), backend, Options::default()).await.unwrap();
    (EfsStore::new(files), base)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_object_store_passes() {
    let (store, _base) = store().await;
    integration::put_get_delete_list(&store).await;
    integration::get_opts(&store).await;
    integration::put_opts(&store, true).await;
    integration::list_uses_directories_correctly(&store).await;
    integration::list_with_delimiter(&store).await;
    integration::rename_and_copy(&store).await;
    integration::copy_if_not_exists(&store).await;
    integration::copy_rename_nonexistent_object(&store).await;
    integration::multipart_out_of_order(&store).await;
    integration::multipart_race_condition(&store, true).await;
    integration::list_with_offset_exclusivity(&store).await;
}

#[tokio::test]
async fn streams_are_what_was_written() {
    let (store, _base) = store().await;
    integration::stream_get(&store).await;
}

#[tokio::test]
async fn a_large_file_is_read_whole_in_ranges_and_copied() {
    let (store, _base) = store().await;
    let content: Bytes = (0..3_000_001_u32).map(|index| (index ^ index >> 9) as u8).collect::<Vec<_>>().into();
    let (from, to) = (Path::from("a/large"), Path::from("b/copy"));
    store.put(&from, content.clone().into()).await.unwrap();
    store.copy(&from, &to).await.unwrap();
    assert_eq!(store.get(&to).await.unwrap().bytes().await.unwrap(), content);
    for range in [
        GetRange::Bounded(0..1),
        GetRange::Bounded(2_999_999..9_000_000),
        GetRange::Offset(1),
        GetRange::Suffix(700_000),
    ] {
        let options = GetOptions { range: Some(range.clone()), ..GetOptions::default() };
        let got = store.get_opts(&to, options).await.unwrap();
        let range = usize::try_from(got.range.start).unwrap()..usize::try_from(got.range.end).unwrap();
        assert_eq!(got.bytes().await.unwrap(), content.slice(range));
    }
    let beyond = GetOptions { range: Some(GetRange::Offset(3_000_001)), ..GetOptions::default() };
    assert!(store.get_opts(&to, beyond).await.is_err());
}

#[tokio::test]
async fn an_upload_that_is_given_up_or_fails_leaves_nothing() {
    let (store, base) = store().await;
    let location = Path::from("x/upload");
    let mut upload = store.put_multipart(&location).await.unwrap();
    upload.put_part("one".into()).await.unwrap();
    upload.abort().await.unwrap();
    assert!(upload.put_part("two".into()).await.is_err());
    assert!(upload.complete().await.is_err());
    drop(store.put_multipart(&location).await.unwrap());
    assert!(matches!(store.head(&location).await, Err(Error::NotFound { .. })));
    let directory = base.path().join("root/x");
    for _ in 0..500 {
        if std::fs::read_dir(&directory).map_or(0, Iterator::count) == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("a temporary file is left");
}

#[tokio::test]
async fn what_files_cannot_do_is_refused() {
    let (store, base) = store().await;
    let location = Path::from("file");
    let version = GetOptions { version: Some("1".to_owned()), ..GetOptions::default() };
    assert!(matches!(store.get_opts(&location, version).await, Err(Error::NotSupported { .. })));
    let update = PutOptions::from(PutMode::Update(object_store::UpdateVersion { e_tag: None, version: None }));
    assert!(matches!(store.put_opts(&location, "x".into(), update).await, Err(Error::NotSupported { .. })));
    let reserved = store.put(&Path::from("a/.efs-router.0"), "x".into()).await;
    assert!(reserved.is_err_and(|err| err.to_string().contains("reserved for temporary files")));
    assert!(store.put(&Path::default(), "x".into()).await.is_err());
    // Names that no location can have do not vanish silently.
    std::fs::write(base.path().join("root").join("a b%"), "x").unwrap();
    std::fs::write(base.path().join("root").join("line\nbreak"), "x").unwrap();
    let listed: Result<Vec<_>, _> = store.list(None).try_collect().await;
    assert!(matches!(listed, Err(Error::InvalidPath { .. })), "{listed:?}");
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    assert_eq!(store.to_string(), "EfsStore(2 mount targets)");
}
