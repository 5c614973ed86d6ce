//! The three storages against a real folder, a real file service and a real S3-compatible store.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use bytes::Bytes;
use model_asynch::{
    clock,
    config::{OssKind, S3, check::check, raw::RawConfig},
    consul::Services,
    spool::{Parked, Spool},
    storage::Storage,
    task::{Attempt, CallerHeaders, TaskKey, TenantId},
};

use crate::support::{
    file_service::{FileService, Reply},
    s3,
};

const NOBODY: CallerHeaders = CallerHeaders { authorization: String::new(), user_info: String::new() };
const MIB: usize = 1024 * 1024;

/// A spool and a place for `fs`, gone with the test.
struct Bench {
    dir: tempfile::TempDir,
    spool: Spool,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(&dir.path().join("tmp")).unwrap();
        Bench { dir, spool }
    }

    fn oss_path(&self) -> std::path::PathBuf {
        self.dir.path().join("files")
    }

    fn fs(&self) -> Storage {
        open(OssKind::Fs { path: self.oss_path(), url_ttl: None, packs: false }).unwrap()
    }

    async fn park(&self, content: impl Into<Bytes>, content_type: &str) -> Parked {
        let key = TaskKey { tenant: TenantId(7), id: clock::task_id() };
        let mut draft = self.spool.draft(key, Attempt(2));
        draft.write(content.into()).await.unwrap();
        draft.finish(Some(content_type), Duration::from_millis(5)).await.unwrap()
    }
}

fn open(kind: OssKind) -> Result<Storage, String> {
    open_with(kind, Duration::from_secs(60))
}

fn open_with(kind: OssKind, timeout: Duration) -> Result<Storage, String> {
    let mut config = check(&RawConfig::default()).unwrap();
    config.oss.kind = kind;
    config.oss.timeout = timeout;
    Storage::open(&config, &"https://asynch.example/api/".parse().unwrap(), &Services::default())
}

/// Bytes that no compression or repetition hides a mix-up in.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

async fn get(url: &str) -> reqwest::Response {
    reqwest::get(url).await.unwrap()
}

mod folder {
    use super::*;

    #[tokio::test]
    async fn a_result_is_served_under_the_public_url_and_outlives_the_spool() {
        let bench = Bench::new();
        let storage = bench.fs();
        let parked = bench.park("{\"a\":1}", "application/json").await;
        let stored = storage.put(&parked, &NOBODY).await.unwrap();
        assert_eq!(stored.oss_file, format!("https://asynch.example/api/file/{}", stored.oss_key));
        assert_eq!((stored.file_type.as_str(), stored.file_size), ("json", 7));
        assert!(stored.oss_key.starts_with("7/20") && stored.oss_key.ends_with(&format!("-2-{}.json", parked.token)));
        assert_eq!(storage.url(&stored.oss_file, &stored.oss_key).await, stored.oss_file);
        bench.spool.remove(&parked).await.unwrap();
        assert_eq!(fs::read(bench.oss_path().join(&stored.oss_key)).unwrap(), b"{\"a\":1}");
    }

    #[tokio::test]
    async fn a_second_try_finds_the_first_ones_file() {
        let bench = Bench::new();
        let storage = bench.fs();
        let parked = bench.park("hello", "text/plain").await;
        let first = storage.put(&parked, &NOBODY).await.unwrap();
        assert_eq!(storage.put(&parked, &NOBODY).await.unwrap(), first);
        assert_eq!(files_below(&bench.oss_path()), 1);
    }

    #[tokio::test]
    async fn half_a_file_in_its_place_is_replaced() {
        let bench = Bench::new();
        let storage = bench.fs();
        let mut parked = bench.park("hello", "text/plain").await;
        let key = storage.put(&parked, &NOBODY).await.unwrap().oss_key;
        let target = bench.oss_path().join(key);
        for half in ["he", "hello, and more"] {
            fs::remove_file(&target).unwrap();
            fs::write(&target, half).unwrap();
            storage.put(&parked, &NOBODY).await.unwrap();
            assert_eq!(fs::read(&target).unwrap(), b"hello");
            bench.spool.settle(&mut parked).await.unwrap();
        }
        assert_eq!(files_below(&bench.oss_path()), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_small_results_at_once_arrive_each_in_its_place() {
        let bench = Bench::new();
        let storage = bench.fs();
        let put = async |n: usize| {
            let parked = bench.park(format!("result {n}"), "text/plain").await;
            let stored = storage.put(&parked, &NOBODY).await.unwrap();
            bench.spool.remove(&parked).await.unwrap();
            assert_eq!(fs::read_to_string(bench.oss_path().join(stored.oss_key)).unwrap(), format!("result {n}"));
        };
        futures::future::join_all((0..300).map(put)).await;
        assert_eq!(files_below(&bench.oss_path()), 300);
        assert_eq!(bench.spool.own().await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_written_fails_its_own_result_only() {
        let bench = Bench::new();
        let storage = bench.fs();
        let parked: Vec<Parked> =
            futures::future::join_all((0..20).map(|n| bench.park(n.to_string(), "text/plain"))).await;
        let key = storage.put(&parked[7], &NOBODY).await.unwrap().oss_key;
        fs::remove_file(bench.oss_path().join(&key)).unwrap();
        fs::create_dir(bench.oss_path().join(&key)).unwrap();
        let nobody = NOBODY;
        let stored = futures::future::join_all(parked.iter().map(|parked| storage.put(parked, &nobody))).await;
        let failed: Vec<usize> = (0..20).filter(|n| stored[*n].is_err()).collect();
        assert_eq!(failed, [7]);
    }

    #[tokio::test]
    async fn a_spool_on_another_file_system_is_copied_from() {
        let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else {
            return eprintln!("SKIPPED: no second file system");
        };
        let bench = Bench::new();
        if elsewhere.path().metadata().unwrap().dev() == bench.dir.path().metadata().unwrap().dev() {
            return eprintln!("SKIPPED: no second file system");
        }
        let path = elsewhere.path().join("files");
        let storage = open(OssKind::Fs { path: path.clone(), url_ttl: None, packs: false }).unwrap();
        let content = noise(3 * MIB);
        let parked = bench.park(content.clone(), "").await;
        let stored = storage.put(&parked, &NOBODY).await.unwrap();
        assert!(fs::read(path.join(stored.oss_key)).unwrap() == content);
        assert_eq!(files_below(&path), 1);
    }

    #[tokio::test]
    async fn a_parked_file_that_is_gone_or_short_needs_a_new_call() {
        let bench = Bench::new();
        let storage = bench.fs();
        let mut parked = bench.park("hello", "text/plain").await;
        bench.spool.settle(&mut parked).await.unwrap();
        fs::write(&parked.path, "he").unwrap();
        assert!(storage.put(&parked, &NOBODY).await.unwrap_err().file_gone);
        fs::remove_file(&parked.path).unwrap();
        let error = storage.put(&parked, &NOBODY).await.unwrap_err();
        assert!(error.file_gone && !error.message.contains('/'), "{error}");
        assert_eq!(files_below(&bench.oss_path()), 0);
    }

    #[tokio::test]
    async fn deletion_is_repeatable_and_stays_inside_the_folder() {
        let bench = Bench::new();
        let storage = bench.fs();
        let stored = storage.put(&bench.park("x", "text/plain").await, &NOBODY).await.unwrap();
        storage.delete(&stored.oss_key).await.unwrap();
        storage.delete(&stored.oss_key).await.unwrap();
        assert_eq!(files_below(&bench.oss_path()), 0);

        let outside = bench.dir.path().join("outside");
        fs::write(&outside, "keep").unwrap();
        for key in ["../outside", "7/../../outside", outside.to_str().unwrap()] {
            assert!(storage.delete(key).await.is_err(), "{key}");
        }
        assert!(outside.exists());
    }

    #[tokio::test]
    async fn trouble_is_told_without_paths() {
        let bench = Bench::new();
        let storage = bench.fs();
        storage.ping().await.unwrap();
        let parked = bench.park("x", "text/plain").await;
        fs::remove_dir(bench.oss_path()).unwrap();
        fs::write(bench.oss_path(), "a file").unwrap();
        for error in [storage.ping().await.unwrap_err(), storage.put(&parked, &NOBODY).await.unwrap_err()] {
            assert!(!error.file_gone && !error.message.contains(bench.dir.path().to_str().unwrap()), "{error}");
        }
        let error =
            open(OssKind::Fs { path: bench.oss_path().join("below"), url_ttl: None, packs: false }).err().unwrap();
        assert!(error.starts_with("oss.path: "), "{error}");
    }

    fn files_below(path: &Path) -> usize {
        fs::read_dir(path).map_or(0, |entries| {
            entries
                .map(|entry| entry.unwrap().path())
                .map(|path| if path.is_dir() { files_below(&path) } else { 1 })
                .sum()
        })
    }
}

mod file_service {
    use super::*;

    fn storage(service: &FileService, pointer: Option<&str>) -> Storage {
        open(OssKind::Http { url: service.url(), url_pointer: pointer.map(str::to_owned) }).unwrap()
    }

    #[tokio::test]
    async fn the_file_arrives_as_the_go_service_sent_it() {
        let service = FileService::start().await;
        let bench = Bench::new();
        let parked = bench.park("RIFF\x24\0\0\0WAVEfmt ", "text/html").await;
        let headers = CallerHeaders { authorization: "Bearer abc".into(), user_info: r#"{"tenantId":"7"}"#.into() };
        let before = clock::now().timestamp();
        let stored = storage(&service, None).put(&parked, &headers).await.unwrap();
        assert_eq!(stored.oss_key, "");
        assert_eq!(get(&stored.oss_file).await.text().await.unwrap(), "RIFF\x24\0\0\0WAVEfmt ");

        let [upload] = service.uploads().try_into().unwrap();
        assert_eq!(upload.headers["authorization"], "Bearer abc");
        assert_eq!(upload.headers["x-user-info"], r#"{"tenantId":"7"}"#);
        assert!(upload.headers.contains_key("content-length"), "the length is known, nothing is chunked");
        // What comes before the second of the upload, that second, and the rest.
        let parts = |part_headers: &str| {
            let (kind, name) = part_headers.split_once("filename=\"asynch_").unwrap();
            let (unix, rest) = name.split_once('_').unwrap();
            (kind.to_lowercase(), unix.to_owned(), rest.to_lowercase())
        };
        let (kind, unix, rest) = parts(&upload.part_headers);
        assert!((before..=clock::now().timestamp()).contains(&unix.parse().unwrap()));
        assert!(rest.starts_with(&format!("{}.wav\"", parked.key.id)), "{rest}");
        assert!(kind.contains("name=\"file\"") && rest.contains("audio/wav"));

        // A result with a file of its own is streamed, and nobody can tell.
        let mut settled = parked;
        bench.spool.settle(&mut settled).await.unwrap();
        storage(&service, None).put(&settled, &headers).await.unwrap();
        let again = service.uploads().pop().unwrap();
        assert_eq!(again.content, upload.content);
        let (again_kind, _, again_rest) = parts(&again.part_headers);
        assert_eq!((again_kind, again_rest), (kind, rest));
    }

    #[tokio::test]
    async fn a_large_file_arrives_whole() {
        let service = FileService::start().await;
        let bench = Bench::new();
        let content = noise(20 * MIB + 1);
        let parked = bench.park(content.clone(), "").await;
        storage(&service, None).put(&parked, &NOBODY).await.unwrap();
        let [upload] = service.uploads().try_into().unwrap();
        assert!(upload.content == content);
        assert!(!upload.headers.contains_key("authorization") && !upload.headers.contains_key("x-user-info"));
    }

    #[tokio::test]
    async fn the_url_is_read_where_the_pointer_says() {
        let service = FileService::start().await;
        let bench = Bench::new();
        let parked = bench.park("x", "text/plain").await;
        service.script([Reply::Answer(201, r#"{"url":"no","file":{"at":"/f/1"}}"#.into())]);
        let stored = storage(&service, Some("/file/at")).put(&parked, &NOBODY).await.unwrap();
        assert_eq!(stored.oss_file, "/f/1");
    }

    #[tokio::test]
    async fn an_answer_without_a_file_is_a_failed_upload() {
        let service = FileService::start().await;
        let bench = Bench::new();
        let storage = storage(&service, None);
        let parked = bench.park("x", "text/plain").await;
        let headers = CallerHeaders { authorization: "Bearer s3cret".into(), user_info: String::new() };
        let endless = format!(r#"{{"url":"u","more":"{}"}}"#, "x".repeat(MIB));
        for (reply, expected) in [
            (Reply::Answer(503, "no disk for Bearer s3cret".into()), "answered 503 to the upload: no disk for ****"),
            (Reply::Answer(200, r#"{"code":61,"message":"who?"}"#.into()), "answered 200 with an error code"),
            (Reply::Answer(200, "{}".into()), "answered 200 without a URL: {}"),
            (Reply::Answer(200, endless), "answered 200 without JSON"),
            (Reply::Redirect(service.url().into()), "answered 307 to the upload"),
        ] {
            service.script([reply]);
            let error = storage.put(&parked, &headers).await.unwrap_err();
            assert!(error.message.contains(expected), "{error} lacks {expected}");
            assert!(!error.file_gone && error.message.chars().count() < 300);
        }
        assert_eq!(service.uploads().len(), 5, "the redirect was not followed");
        storage.put(&parked, &headers).await.unwrap();
    }

    #[tokio::test]
    async fn a_service_that_hangs_is_given_up_on() {
        let service = FileService::start().await;
        let bench = Bench::new();
        let kind = OssKind::Http { url: service.url(), url_pointer: None };
        let storage = open_with(kind, Duration::from_millis(300)).unwrap();
        let parked = bench.park("x", "text/plain").await;
        service.script([Reply::Hang]);
        let error = storage.put(&parked, &NOBODY).await.unwrap_err();
        assert!(error.message.contains("in time") && !error.file_gone, "{error}");
    }

    #[tokio::test]
    async fn a_parked_file_that_is_not_what_was_parked_is_not_uploaded() {
        let service = FileService::start().await;
        let bench = Bench::new();
        let storage = storage(&service, None);
        let mut content = noise(3 * MIB);
        let parked = bench.park(content.clone(), "").await;
        content[MIB] ^= 1;
        fs::write(&parked.path, &content).unwrap();
        let error = storage.put(&parked, &NOBODY).await.unwrap_err();
        assert!(error.file_gone && error.message.contains("checksum"), "{error}");
        fs::remove_file(&parked.path).unwrap();
        assert!(storage.put(&parked, &NOBODY).await.unwrap_err().file_gone);
        assert!(service.uploads().is_empty());
    }

    #[tokio::test]
    async fn an_unreachable_service_is_told_without_its_url() {
        let service = FileService::start().await;
        let bench = Bench::new();
        let mut url = service.url();
        storage(&service, None).ping().await.unwrap();
        drop(service);
        url.set_query(Some("key=s3cret"));
        // The port is free again, so that nobody listens there.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        url.set_port(Some(free)).unwrap();
        let storage = open(OssKind::Http { url, url_pointer: None }).unwrap();
        let parked = bench.park("x", "text/plain").await;
        for error in [storage.put(&parked, &NOBODY).await.unwrap_err(), storage.ping().await.unwrap_err()] {
            assert!(error.message.starts_with("the file service cannot be reached"), "{error}");
            assert!(!error.message.contains("s3cret") && !error.file_gone);
        }
    }

    #[tokio::test]
    async fn nothing_can_be_deleted_there() {
        let service = FileService::start().await;
        let error = storage(&service, None).delete("any").await.unwrap_err();
        assert_eq!(error.message, "the file service offers no deletion");
    }
}

mod s3_store {
    use super::*;

    fn storage(config: S3) -> Storage {
        open(OssKind::S3(config)).unwrap()
    }

    #[tokio::test]
    async fn a_presigned_url_hands_the_result_out_and_a_tampered_one_does_not() {
        let Some(config) = s3::store() else { return };
        let storage = storage(config);
        let bench = Bench::new();
        let parked = bench.park("RIFF\x24\0\0\0WAVEfmt ", "text/html").await;
        let stored = storage.put(&parked, &NOBODY).await.unwrap();
        assert_eq!(stored.oss_file, "", "a fresh URL is made at every look");
        let url = storage.url(&stored.oss_file, &stored.oss_key).await;
        let answer = get(&url).await;
        assert_eq!((answer.status().as_u16(), &answer.headers()["content-type"]), (200, &"audio/wav".parse().unwrap()));
        assert_eq!(answer.text().await.unwrap(), "RIFF\x24\0\0\0WAVEfmt ");

        assert!(url.contains("X-Amz-Expires=600"));
        let longer = url.replace("X-Amz-Expires=600", "X-Amz-Expires=6000");
        assert_eq!(get(&longer).await.status().as_u16(), 403);
        let bare = url.split('?').next().unwrap();
        assert_eq!(get(bare).await.status().as_u16(), 403);
    }

    #[tokio::test]
    async fn a_large_result_goes_in_parts_and_arrives_whole() {
        let Some(config) = s3::store() else { return };
        let storage = storage(config);
        let bench = Bench::new();
        let content = noise(64 * MIB + 1);
        let parked = bench.park(content.clone(), "").await;
        let stored = storage.put(&parked, &NOBODY).await.unwrap();
        assert_eq!(stored.file_size, content.len() as u64);
        let answer = get(&storage.url("", &stored.oss_key).await).await;
        let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
        assert!(etag.trim_matches('"').ends_with("-9"), "nine parts: {etag}");
        assert!(answer.bytes().await.unwrap() == content);
        storage.delete(&stored.oss_key).await.unwrap();
    }

    #[tokio::test]
    async fn a_second_try_stores_the_same_object() {
        let Some(config) = s3::store() else { return };
        let storage = storage(S3 { public_url: Some("https://cdn.example/r/".parse().unwrap()), ..config });
        let bench = Bench::new();
        let parked = bench.park("hello", "text/plain").await;
        let stored = storage.put(&parked, &NOBODY).await.unwrap();
        assert_eq!(storage.put(&parked, &NOBODY).await.unwrap(), stored);
        assert_eq!(stored.oss_file, format!("https://cdn.example/r/{}", stored.oss_key));
        assert_eq!(storage.url(&stored.oss_file, &stored.oss_key).await, stored.oss_file);
    }

    #[tokio::test]
    async fn deletion_is_repeatable() {
        let Some(config) = s3::store() else { return };
        let storage = storage(config);
        let bench = Bench::new();
        let stored = storage.put(&bench.park("x", "text/plain").await, &NOBODY).await.unwrap();
        storage.delete(&stored.oss_key).await.unwrap();
        storage.delete(&stored.oss_key).await.unwrap();
        assert_eq!(get(&storage.url("", &stored.oss_key).await).await.status().as_u16(), 404);
        assert!(storage.delete("../x").await.is_err());
    }

    #[tokio::test]
    async fn a_torn_result_leaves_no_object() {
        let Some(config) = s3::store() else { return };
        let storage = storage(config);
        let bench = Bench::new();
        for size in [MIB, 20 * MIB] {
            let mut content = noise(size);
            let parked = bench.park(content.clone(), "").await;
            content[size - 1] ^= 1;
            fs::write(&parked.path, &content).unwrap();
            assert!(storage.put(&parked, &NOBODY).await.unwrap_err().file_gone);
            content[size - 1] ^= 1;
            fs::write(&parked.path, &content).unwrap();
            let key = storage.put(&parked, &NOBODY).await.unwrap().oss_key;
            storage.delete(&key).await.unwrap();
            fs::remove_file(&parked.path).unwrap();
            assert!(storage.put(&parked, &NOBODY).await.unwrap_err().file_gone);
            assert_eq!(get(&storage.url("", &key).await).await.status().as_u16(), 404);
        }
    }

    #[tokio::test]
    async fn wrong_keys_and_buckets_are_told_without_secrets() {
        let Some(config) = s3::store() else { return };
        storage(config.clone()).ping().await.unwrap();
        let bench = Bench::new();
        let parked = bench.park("x", "text/plain").await;
        let large = bench.park(noise(9 * MIB), "").await;
        let wrong = [
            (S3 { secret_key: "wrongsecret".into(), ..config.clone() }, "SignatureDoesNotMatch"),
            (S3 { access_key: "wrongaccess".into(), ..config.clone() }, "InvalidAccessKeyId"),
        ];
        for (config, code) in wrong {
            let storage = storage(config.clone());
            for error in [
                storage.ping().await.unwrap_err(),
                storage.put(&parked, &NOBODY).await.unwrap_err(),
                storage.put(&large, &NOBODY).await.unwrap_err(),
            ] {
                assert_eq!(error.message, format!("storage answered 403 ({code})"));
                assert!(!error.file_gone);
            }
        }
        let storage = storage(S3 { bucket: "no-such-bucket".into(), ..config });
        let error = storage.ping().await.unwrap_err();
        assert_eq!(error.message, "storage answered 404 (NoSuchBucket)");
    }

    #[tokio::test]
    async fn an_unreachable_store_is_said_to_be() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let storage = storage(S3 {
            endpoint: Some(format!("http://{free}").parse().unwrap()),
            region: "r".into(),
            bucket: "b".into(),
            access_key: "K".into(),
            secret_key: "s3cret".into(),
            virtual_hosted: false,
            public_url: None,
            presign_for: Duration::from_secs(60),
        });
        let bench = Bench::new();
        let parked = bench.park("x", "text/plain").await;
        for error in [storage.put(&parked, &NOBODY).await.unwrap_err(), storage.ping().await.unwrap_err()] {
            assert_eq!(error.message, "storage cannot be reached");
        }
    }
}
