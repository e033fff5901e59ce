//! Pages of real timelines, and that those who miss the same page read it once.

use std::time::Instant;

use futures_util::future::{join, join_all};

use super::*;
use crate::{
    delivery::{handle::Handle, topic::Topic},
    error::Code,
    limits::{CACHE_TTL, FRAME_BODY_BYTES_MAX},
    testing::{Timelines, done, send},
};

const READER: i64 = 100;
const OWNER: Owner = Owner::User(UserId(READER));

fn pages(world: &Timelines) -> Arc<Pages> {
    let directory = Arc::new(Directory::new(
        world.store.clone(),
        Arc::clone(&world.router),
        CACHE_TTL,
    ));
    Arc::new(Pages::new(
        world.store.clone(),
        directory,
        world.tasks.clone(),
        Arc::clone(&world.metrics),
    ))
}

/// Messages of these sizes on one timeline.
async fn append(world: &Timelines, sizes: impl IntoIterator<Item = usize>) {
    let waiting = sizes.into_iter().map(|size| {
        let append = send(1, &[READER], "", &vec![b'x'; size]);
        done(world.writer.append(append, Instant::now()).unwrap())
    });
    for sent in join_all(waiting).await {
        sent.unwrap();
    }
}

/// All pages, one after the other.
async fn walk(pages: &Pages, bytes_max: usize) -> Vec<Page> {
    let mut walked: Vec<Page> = Vec::new();
    let mut after = Seq::ZERO;
    loop {
        let page = pages
            .read(OWNER, after, PAGE_MESSAGES_MAX, bytes_max)
            .await
            .unwrap();
        let has_more = page.has_more;
        after = Seq(page
            .messages
            .last()
            .map_or(after.get(), |last| last.message.seq));
        walked.push(page);
        if !has_more {
            return walked;
        }
    }
}

fn seqs(pages: &[Page]) -> impl Iterator<Item = i64> {
    let messages = pages.iter().flat_map(|page| &page.messages);
    messages.map(|delivered| delivered.message.seq)
}

fn bytes(page: &Page) -> usize {
    let messages = page.messages.iter().map(|delivered| &delivered.message);
    messages.map(len_as_field).sum()
}

#[tokio::test]
async fn page_ends_at_its_count() {
    let world = Timelines::new().await;
    let pages = pages(&world);
    assert!(walk(&pages, PAGE_BYTES_MAX).await[0].messages.is_empty());
    append(&world, [1; PAGE_MESSAGES_MAX]).await;
    assert_eq!(walk(&pages, PAGE_BYTES_MAX).await.len(), 1);
    append(&world, [1; PAGE_MESSAGES_MAX + 20]).await;
    let walked = walk(&pages, PAGE_BYTES_MAX).await;
    let lens: Vec<usize> = walked.iter().map(|page| page.messages.len()).collect();
    assert_eq!(lens, [PAGE_MESSAGES_MAX, PAGE_MESSAGES_MAX, 20]);
    assert!(seqs(&walked).eq(1..=120));
}

#[tokio::test]
async fn page_ends_before_it_is_too_large() {
    let world = Timelines::new().await;
    let pages = pages(&world);
    let sizes = (0..60)
        .map(|n| n * 7_919 % 30_000)
        .chain([60_000, 60_000, 1, 60_000]);
    append(&world, sizes).await;
    let walked = walk(&pages, PAGE_BYTES_MAX).await;
    assert!(seqs(&walked).eq(1..=64));
    for pair in walked.windows(2) {
        let next = &pair[1].messages[0].message;
        let is_full = bytes(&pair[0]) + len_as_field(next) > PAGE_BYTES_MAX;
        assert!(is_full, "the next message had room");
    }
    for page in walked {
        assert!(bytes(&page) <= PAGE_BYTES_MAX);
        let output = pb::SyncOutput {
            messages: page.messages.into_iter().map(|d| d.message).collect(),
            has_more: true,
            epoch: i64::MAX,
            reset: true,
            ..Default::default()
        };
        let frame = pb::Output {
            r#type: pb::PackageType::PtSync as i32,
            request_id: i64::MAX,
            data: output.encode_to_vec().into(),
            ..Default::default()
        };
        assert!(frame.encoded_len() <= FRAME_BODY_BYTES_MAX);
    }
}

#[tokio::test]
async fn page_has_a_message_however_little_room_there_is() {
    let world = Timelines::new().await;
    append(&world, [100, 100]).await;
    let walked = walk(&pages(&world), 1).await;
    assert_eq!(walked.len(), 2);
    assert!(seqs(&walked).eq([1, 2]));
}

#[tokio::test]
async fn catch_up_gives_what_the_feed_would_have_given() {
    let world = Timelines::new().await;
    let lease = world.router.lease(Topic::from(OWNER)).await;
    lease.open(Seq::ZERO);
    let device = DeviceId(1);
    let (key, mut position) = lease.follow(Arc::new(Handle::new(device)), 0, None);
    append(&world, [0, 1, 200, 20_000]).await;
    let body = |push: &Push| push.encode(UserId(READER)).pieces().concat();
    let mut live = Vec::new();
    lease.read(key, &mut position, device, |push| {
        live.push(body(push));
        true
    });
    let pushes = pages(&world).catch_up(OWNER, Seq::ZERO).await.unwrap();
    assert!(pushes.iter().map(|push| push.seq.get()).eq(1..=4));
    assert!(pushes.iter().all(|push| push.origin() == DeviceId(10)));
    assert!(pushes.iter().map(body).eq(live));
}

#[tokio::test]
async fn those_who_miss_the_same_page_share_one_read() {
    let world = Timelines::new().await;
    append(&world, [1; 3]).await;
    let pages = pages(&world);
    let together = join_all((0..20).map(|_| pages.catch_up(OWNER, Seq::ZERO)));
    let (together, later) = join(together, pages.catch_up(OWNER, Seq(2))).await;
    assert_eq!(world.metrics.catch_up_reads.get(), 2);
    let first = together[0].as_ref().unwrap();
    assert_eq!(first.len(), 3);
    assert!(
        together
            .iter()
            .all(|pushes| Arc::ptr_eq(pushes.as_ref().unwrap(), first))
    );
    assert_eq!(later.unwrap().len(), 1);

    append(&world, [1]).await;
    let again = pages.catch_up(OWNER, Seq::ZERO).await.unwrap();
    assert_eq!(again.len(), 4, "a read that has ended is not used again");
    assert!(pages.readings.lock().unwrap().is_empty());
}

#[tokio::test]
async fn read_goes_on_when_the_first_who_asked_goes_away() {
    let world = Timelines::new().await;
    append(&world, [1; 3]).await;
    let pages = pages(&world);
    let mut first = Box::pin(pages.catch_up(OWNER, Seq::ZERO));
    assert!(first.as_mut().now_or_never().is_none());
    let second = pages.catch_up(OWNER, Seq::ZERO);
    let mut second = Box::pin(second);
    assert!(second.as_mut().now_or_never().is_none());
    drop(first);
    assert_eq!(second.await.unwrap().len(), 3);
    assert_eq!(world.metrics.catch_up_reads.get(), 1);
}

#[tokio::test]
async fn failed_read_fails_for_all_and_is_forgotten() {
    let world = Timelines::new().await;
    append(&world, [1]).await;
    let pages = pages(&world);
    world.store.close().await;
    for result in join_all((0..3).map(|_| pages.catch_up(OWNER, Seq::ZERO))).await {
        assert!(result.unwrap_err().is(Code::TryAgain));
    }
    assert_eq!(world.metrics.catch_up_reads.get(), 1);
    assert!(pages.readings.lock().unwrap().is_empty());
}
