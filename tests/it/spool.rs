//! The spool on a real disk: parking, crashes, and who takes over what is left.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use model_asynch::{
    clock,
    spool::{Parked, ReadError, Spool},
    task::{Attempt, TaskKey, TenantId},
};

const QUICK: Duration = Duration::from_millis(20);
const SLOW: Duration = Duration::from_secs(90);

fn key() -> TaskKey {
    TaskKey { tenant: TenantId(7), id: clock::task_id() }
}

/// Parks the result of a call that took its time, in a file of its own.
async fn park(spool: &Spool, content: &[u8]) -> Parked {
    park_after(spool, content, SLOW).await
}

/// Parks the result of a quick call, in a slot if it is small.
async fn park_quick(spool: &Spool, content: &[u8]) -> Parked {
    park_after(spool, content, QUICK).await
}

async fn park_after(spool: &Spool, content: &[u8], call_time: Duration) -> Parked {
    let mut draft = spool.draft(key(), Attempt(1));
    draft.write(Bytes::copy_from_slice(content)).await.unwrap();
    draft.finish(None, call_time).await.unwrap()
}

async fn read(parked: &Parked) -> Vec<u8> {
    let mut reader = parked.open().await.unwrap();
    let mut read = Vec::new();
    while let Some(piece) = reader.piece(1000).await.unwrap() {
        read.extend_from_slice(&piece);
    }
    read
}

/// Everything in the one folder that a single spool has made.
fn folder_of(root: &Path) -> PathBuf {
    let mut folders = fs::read_dir(root).unwrap();
    let folder = folders.next().unwrap().unwrap().path();
    assert!(folders.next().is_none(), "more than one folder");
    folder
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn only_lock() -> BTreeSet<String> {
    BTreeSet::from(["lock".to_owned()])
}

#[tokio::test]
async fn a_small_result_is_no_file_until_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let folder = folder_of(dir.path());
    let task = key();
    let mut draft = spool.draft(task, Attempt(3));
    draft.write(Bytes::from_static(b"RIFF\x24\0\0\0WAVE")).await.unwrap();
    draft.write(Bytes::from_static(b"fmt ")).await.unwrap();
    assert_eq!((draft.size(), names(&folder)), (16, only_lock()));

    let parked = draft.finish(Some("text/html"), Duration::from_micros(1_234_567)).await.unwrap();
    assert_eq!((parked.key, parked.attempt, parked.size), (task, Attempt(3), 16));
    assert_eq!(parked.file_type, "wav");
    assert_eq!(parked.crc, crc32fast::hash(b"RIFF\x24\0\0\0WAVEfmt "));
    assert_eq!(parked.call_time, Duration::from_millis(1234));
    assert_eq!(fs::read(&parked.path).unwrap(), b"RIFF\x24\0\0\0WAVEfmt ");
    assert_eq!(spool.own().await.unwrap(), [parked], "the name alone says all of it");
}

#[tokio::test]
async fn a_large_result_grows_on_disk_under_a_name_that_nobody_adopts() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let content: Vec<u8> = (0..3_000_001u32).map(|n| (n % 251) as u8).collect();
    let mut draft = spool.draft(key(), Attempt(1));
    for chunk in content.chunks(70_001) {
        draft.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    assert_eq!(names(&folder_of(dir.path())).len(), 2, "the lock and what is being written");
    assert_eq!(spool.own().await.unwrap(), []);
    let parked = draft.finish(None, SLOW).await.unwrap();
    assert!(fs::read(&parked.path).unwrap() == content);
    assert_eq!(names(&folder_of(dir.path())).len(), 2);

    let mut reader = parked.open().await.unwrap();
    let mut read = Vec::new();
    while let Some(piece) = reader.piece(1_000_000).await.unwrap() {
        assert!(piece.len() <= 1_000_000);
        read.extend_from_slice(&piece);
    }
    assert!(read == content);
}

#[tokio::test]
async fn an_abandoned_draft_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    for size in [10, 1_000_000] {
        let mut draft = spool.draft(key(), Attempt(1));
        draft.write(Bytes::from(vec![1; size])).await.unwrap();
        drop(draft);
        assert_eq!(names(&folder_of(dir.path())), only_lock());
    }
}

#[test]
fn a_result_that_nobody_waits_for_any_more_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let spool = Spool::open(dir.path()).unwrap();
        let mut draft = spool.draft(key(), Attempt(1));
        draft.write(Bytes::from_static(b"late")).await.unwrap();
        let mut finishing = Box::pin(draft.finish(None, SLOW));
        assert!(futures::poll!(finishing.as_mut()).is_pending(), "no disk is that fast");
    });
    // Waits for what has begun.
    drop(runtime);
    assert_eq!(names(&folder_of(dir.path())), only_lock());
}

#[tokio::test]
async fn a_draft_that_lost_bytes_cannot_be_finished() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let folder = folder_of(dir.path());
    let mut draft = spool.draft(key(), Attempt(1));
    let away = dir.path().join("away");
    fs::rename(&folder, &away).unwrap();
    assert!(draft.write(Bytes::from(vec![1; 1_000_000])).await.is_err());
    fs::rename(&away, &folder).unwrap();
    assert!(draft.finish(None, QUICK).await.is_err());
    assert_eq!(names(&folder), only_lock());
}

#[tokio::test]
async fn a_result_is_removed_once_and_twice() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let parked = park(&spool, b"hello").await;
    spool.remove(&parked).await.unwrap();
    spool.remove(&parked).await.unwrap();
    assert_eq!(spool.own().await.unwrap(), []);
}

#[tokio::test]
async fn the_results_of_a_dead_process_are_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let dead = Spool::open(dir.path()).unwrap();
    let left = [park(&dead, b"one").await, park(&dead, &vec![2; 700_000]).await];
    drop(dead);

    let spool = Spool::open(dir.path()).unwrap();
    let taken = spool.take_over().await.unwrap();
    assert_eq!(taken.len(), 2);
    for old in left {
        let new = taken.iter().find(|new| new.key == old.key).unwrap();
        let back = {
            let mut back = new.clone();
            back.path.clone_from(&old.path);
            back
        };
        assert_eq!(back, old, "only its place changes");
        assert!(new.path.exists() && !old.path.exists());
    }
    assert_eq!(spool.own().await.unwrap().len(), 2);
    assert_eq!(names(dir.path()).len(), 1, "the dead process's folder is gone");
    assert_eq!(spool.take_over().await.unwrap(), []);
}

#[tokio::test]
async fn a_living_process_keeps_what_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let alive = Spool::open(dir.path()).unwrap();
    let parked = park(&alive, b"mine").await;
    let spool = Spool::open(dir.path()).unwrap();
    assert_eq!(spool.take_over().await.unwrap(), []);
    assert_eq!(alive.own().await.unwrap(), [parked]);
}

#[tokio::test]
async fn what_a_crash_has_torn_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let dead = Spool::open(dir.path()).unwrap();
    let folder = folder_of(dir.path());
    let short = park(&dead, b"short").await;
    fs::write(&short.path, b"sho").unwrap();
    let flipped = park(&dead, b"flipped").await;
    fs::write(&flipped.path, b"fl1pped").unwrap();
    let whole = park(&dead, b"whole").await;
    fs::write(folder.join("0123.part"), b"half").unwrap();
    drop(dead);

    let spool = Spool::open(dir.path()).unwrap();
    let taken = spool.take_over().await.unwrap();
    assert_eq!(taken.iter().map(|parked| parked.key).collect::<Vec<_>>(), [whole.key]);
    assert!(!folder.exists());
}

#[tokio::test]
async fn files_and_folders_of_others_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dead = Spool::open(dir.path()).unwrap();
    let folder = folder_of(dir.path());
    park(&dead, b"mine").await;
    drop(dead);
    fs::write(folder.join("notes.txt"), b"keep").unwrap();
    fs::write(dir.path().join("README"), b"keep").unwrap();
    fs::create_dir(dir.path().join("backup")).unwrap();
    fs::write(dir.path().join("backup/x.part"), b"keep").unwrap();

    let spool = Spool::open(dir.path()).unwrap();
    assert_eq!(spool.take_over().await.unwrap().len(), 1);
    assert_eq!(spool.take_over().await.unwrap(), []);
    for kept in [folder.join("notes.txt"), dir.path().join("README"), dir.path().join("backup/x.part")] {
        assert_eq!(fs::read(&kept).unwrap(), b"keep", "{}", kept.display());
    }
}

#[tokio::test]
async fn a_folder_that_lost_its_lock_file_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let dead = Spool::open(dir.path()).unwrap();
    let folder = folder_of(dir.path());
    park(&dead, b"mine").await;
    drop(dead);
    fs::remove_file(folder.join("lock")).unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    assert_eq!(spool.take_over().await.unwrap().len(), 1);
    assert!(!folder.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_take_over_at_once_share_without_loss() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = BTreeSet::new();
    for _ in 0..5 {
        let dead = Spool::open(dir.path()).unwrap();
        for n in 0..20 {
            expected.insert(park(&dead, &[n; 1000]).await.key.id);
        }
    }
    let heirs: Vec<Spool> = (0..4).map(|_| Spool::open(dir.path()).unwrap()).collect();
    let shares = futures::future::try_join_all(heirs.iter().map(Spool::take_over)).await.unwrap();
    let mut taken: Vec<_> = shares.iter().flatten().map(|parked| parked.key.id).collect();
    // One more round for a folder that one heir skipped because another had just opened its lock.
    taken.extend(heirs[0].take_over().await.unwrap().iter().map(|parked| parked.key.id));
    assert_eq!(taken.len(), expected.len(), "nothing is taken twice");
    assert_eq!(BTreeSet::from_iter(taken), expected);
    assert_eq!(names(dir.path()).len(), heirs.len());
}

#[tokio::test]
async fn reading_notices_a_result_that_is_not_what_was_parked() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let parked = park(&spool, b"content").await;
    fs::write(&parked.path, b"c0ntent").unwrap();
    let mut reader = parked.open().await.unwrap();
    assert_eq!(reader.piece(3).await.unwrap().unwrap(), "c0n");
    assert!(matches!(reader.piece(100).await, Err(ReadError::Gone("its checksum is wrong"))));

    fs::write(&parked.path, b"cont").unwrap();
    assert!(matches!(parked.open().await, Err(ReadError::Gone("its size is wrong"))));
    fs::remove_file(&parked.path).unwrap();
    assert!(matches!(parked.open().await, Err(ReadError::Gone("no such file"))));
}

/// The size of the file with the slots in the one folder there is.
fn slots(root: &Path) -> Option<u64> {
    fs::metadata(folder_of(root).join("slots")).ok().map(|file| file.len())
}

#[tokio::test]
async fn small_results_of_quick_calls_share_a_file_that_is_empty_after_them() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    assert_eq!(slots(dir.path()), None);
    let (one, two) = (park_quick(&spool, b"one").await, park_quick(&spool, &[2; 20_000]).await);
    assert_eq!(names(&folder_of(dir.path())).len(), 2, "the lock and the slots");
    assert_eq!((read(&one).await, read(&two).await), (b"one".to_vec(), vec![2; 20_000]));
    let large = park_quick(&spool, &[3; 33_000]).await;
    assert!(large.path.exists() && !one.path.exists());
    assert_eq!(spool.own().await.unwrap(), std::slice::from_ref(&large), "somebody works on the others");

    spool.remove(&one).await.unwrap();
    assert!(slots(dir.path()).unwrap() > 0);
    spool.remove(&two).await.unwrap();
    spool.remove(&two).await.unwrap();
    spool.remove(&large).await.unwrap();
    assert_eq!(slots(dir.path()), Some(0));
}

#[tokio::test]
async fn what_is_left_in_the_slots_of_a_dead_process_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let dead = Spool::open(dir.path()).unwrap();
    let left = [park_quick(&dead, b"one").await, park_quick(&dead, &[2; 20_000]).await];
    let flipped = park_quick(&dead, b"flipped").await;
    let torn = folder_of(dir.path()).join("slots");
    let mut content = fs::read(&torn).unwrap();
    let at = content.windows(7).position(|bytes| bytes == b"flipped").unwrap();
    content[at] = b'F';
    fs::write(&torn, content).unwrap();
    drop(dead);

    let spool = Spool::open(dir.path()).unwrap();
    let taken = spool.take_over().await.unwrap();
    assert_eq!(taken.len(), 2);
    for old in &left {
        let new = taken.iter().find(|new| new.key == old.key).unwrap();
        assert_eq!((new.attempt, &new.token, new.crc, new.call_time), (old.attempt, &old.token, old.crc, QUICK));
        assert_eq!(read(new).await, read(old).await);
        assert!(new.path.exists());
    }
    assert!(taken.iter().all(|new| new.key != flipped.key));
    assert_eq!(spool.own().await.unwrap().len(), 2);
    assert_eq!(names(dir.path()).len(), 1, "the dead process's folder is gone");
}

#[tokio::test]
async fn a_result_that_was_dropped_is_found_again_by_its_own_process() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let parked = park_quick(&spool, b"dropped").await;
    let (key, path) = (parked.key, parked.path.clone());
    drop(parked);
    let [found] = spool.own().await.unwrap().try_into().unwrap();
    assert_eq!((found.key, &found.path, read(&found).await), (key, &path, b"dropped".to_vec()));
    spool.remove(&found).await.unwrap();
    assert_eq!(spool.own().await.unwrap(), []);
}

#[tokio::test]
async fn a_settled_result_has_a_file_and_leaves_its_slot() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let mut parked = park_quick(&spool, b"slow upload").await;
    spool.settle(&mut parked).await.unwrap();
    spool.settle(&mut parked).await.unwrap();
    assert_eq!((fs::read(&parked.path).unwrap(), slots(dir.path())), (b"slow upload".to_vec(), Some(0)));
    assert_eq!((read(&parked).await, spool.own().await.unwrap()), (b"slow upload".to_vec(), vec![parked.clone()]));
    spool.remove(&parked).await.unwrap();
    assert_eq!(spool.own().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_results_than_slots_are_parked_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let contents: Vec<Vec<u8>> = (0..1100u32).map(|n| n.to_be_bytes().to_vec()).collect();
    let parked = futures::future::join_all(contents.iter().map(|content| park_quick(&spool, content))).await;
    let files = parked.iter().filter(|parked| parked.path.exists()).count();
    assert_eq!(files, 1100 - 1024);
    for (parked, content) in parked.iter().zip(&contents) {
        assert_eq!(read(parked).await, *content);
        spool.remove(parked).await.unwrap();
    }
    assert_eq!((spool.own().await.unwrap(), slots(dir.path())), (vec![], Some(0)));
}

#[test]
fn a_small_result_that_nobody_waits_for_any_more_leaves_its_slot_free() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let spool = Spool::open(dir.path()).unwrap();
        let mut draft = spool.draft(key(), Attempt(1));
        draft.write(Bytes::from_static(b"late")).await.unwrap();
        let mut finishing = Box::pin(draft.finish(None, QUICK));
        assert!(futures::poll!(finishing.as_mut()).is_pending(), "another thread writes it");
        drop(finishing);
        let next = park_quick(&spool, b"next").await;
        assert_eq!(spool.own().await.unwrap(), []);
        spool.remove(&next).await.unwrap();
        assert_eq!(slots(dir.path()), Some(0));
    });
}
