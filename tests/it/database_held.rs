//! Somebody else holds rows of the database in a transaction that does not end: calls that need them
//! are answered in time, others are not held up, and when he lets go everything goes on.

use std::time::Duration;

use crate::support::{
    Process, Transport,
    errors::{TRY_AGAIN_LATER, code},
    messages::{text, text_with_id},
    wait::{as_promised, eventually},
};

/// A send that cannot be stored is answered by then.
const SEND_ANSWERED: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_send_that_waits_for_somebody_elses_transaction_is_answered_in_time() {
    let server = Process::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    server.send(&alice, text(bob.user_id, "before")).await;
    let mut receiver = server.connect(Transport::Tcp, &bob).await;
    let rows = server.database().connect().await;
    rows.hold_timelines().await;
    let request = text_with_id(bob.user_id, "held", "held");
    let send = server.try_send(&alice, request.clone());
    let refused = as_promised(SEND_ANSWERED, "the answer to a send", send).await;
    assert_eq!(
        code(&refused.expect_err("it cannot be stored")),
        TRY_AGAIN_LATER
    );
    receiver.heartbeat().await;
    assert!(receiver.take_pushes().is_empty());
    rows.let_go().await;
    let sent = eventually("sends are stored again", async || {
        server.try_send(&alice, request.clone()).await.ok()
    });
    assert_eq!(sent.await.seq, 2, "nothing was stored meanwhile");
    assert_eq!(receiver.push().await.seq, 2);
}
