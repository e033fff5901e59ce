//! A business server that is away is found out soon, is not pressed by everybody, and is used again
//! when it is back; who is signed in goes on meanwhile.

use crate::support::{
    Business, Server, Transport,
    errors::{TRY_AGAIN_LATER, assert_code, assert_fails},
    messages::{text, words},
    wait::eventually,
};

const BREAKER: &str = "im_business_breaker_open";
const NOT_ASKED: &str = "im_business_not_asked_total";
const FAILED: &str = "im_business_auths_total{result=\"failed\"}";

#[tokio::test]
async fn nobody_waits_for_a_dead_business_until_it_is_back() {
    let mut business = Business::start().await;
    let server = Server::with(|config| business.keeps_users(config)).await;
    let device = server.device_of(1).await;
    business.kill();
    let refused = async || {
        let answer = server.open(Transport::Tcp).await.sign_in(&device).await;
        assert_code(&answer, TRY_AGAIN_LATER);
    };
    for failed in 1..=10 {
        assert_eq!(server.metric(BREAKER).await, 0, "after {failed} failures");
        refused().await;
    }
    assert_eq!(server.metric(BREAKER).await, 1);
    assert_eq!(server.metric(FAILED).await, 10);
    assert_eq!(server.metric(NOT_ASKED).await, 0, "each of them was made");
    eventually("calls are not even made", async || {
        refused().await;
        (server.metric(NOT_ASKED).await >= 10).then_some(())
    })
    .await;
    assert_fails(
        server.try_send(&device, text(2, "x")).await,
        TRY_AGAIN_LATER,
    );

    business.start_again().await;
    eventually("a probe finds it", async || {
        let answer = server.open(Transport::Tcp).await.sign_in(&device).await;
        (answer.code == 0).then_some(())
    })
    .await;
    assert_eq!(server.metric(BREAKER).await, 0);
    business.called("Auth 1", 1).await;
    server
        .connect(Transport::Tcp, &server.device_of(2).await)
        .await;
}

on_each_transport!(sessions_and_what_they_send_survive_the_business);

async fn sessions_and_what_they_send_survive_the_business(transport: Transport) {
    let mut business = Business::start().await;
    let server = Server::with(|config| {
        business.keeps_users(config);
        config.users.auth_cache_s = 1;
        config.users.profile_cache_s = 1;
    })
    .await;
    let (ada, bob) = (server.device_of(1).await, server.device_of(2).await);
    let mut as_ada = server.connect(transport, &ada).await;
    let mut as_bob = server.connect(transport, &bob).await;
    as_ada.send(&text(2, "before")).await;
    assert_eq!(words(&as_bob.push().await), "before");
    business.kill();
    // Until what was remembered has run out, and the business was asked in vain.
    eventually("it is missed", async || {
        as_ada.send(&text(2, "meanwhile")).await;
        let message = as_bob.push().await;
        assert_eq!(words(&message), "meanwhile");
        assert_eq!(message.sender.expect("a sender").nickname, "Ada");
        let missed = "im_business_lookups_total{result=\"failed\"}";
        (server.metric(missed).await > 20).then_some(())
    })
    .await;
    assert_eq!(as_ada.sync_from_start().await[0].seq, 1);
    // Of whom nobody has heard it is not known whether he is there.
    let answer = as_ada.try_send(&text(3, "x")).await;
    assert_code(&answer, TRY_AGAIN_LATER);
}
