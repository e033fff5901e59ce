//! A token that is revoked on one instance is worth nothing on any other, for sessions and calls alike,
//! however warm what they remember (I8).

use std::time::{Duration, Instant};

use im::pb::{IntSignOutReq, NoticeCode, SetPasswordReq, SignOutReq};

use crate::support::{
    Cluster, Transport,
    errors::{SIGN_IN_AGAIN, assert_code},
    wait::{BUSY, eventually},
};

const NEVER_S: u64 = 3_600;
const INTERVAL_S: u64 = 2;

on_each_transport!(
    a_sign_out_on_one_instance_closes_on_the_other,
    a_business_signs_out_everywhere,
    a_password_set_on_one_instance_ends_sessions_on_the_other,
    a_new_user_of_a_device_ends_the_former_users_session,
    without_redis_a_revocation_takes_effect_within_the_interval,
);

async fn a_sign_out_on_one_instance_closes_on_the_other(transport: Transport) {
    let plan = Cluster::plan(2).set("delivery.reconcile_interval_s", NEVER_S);
    let cluster = plan.start().await;
    let alice = cluster[0].new_user().await;
    let other = cluster[0].another_device_of(&alice).await;
    let mut session = cluster[1].connect(transport, &alice).await;
    let mut others = cluster[1].connect(transport, &other).await;
    assert!(cluster[1].token_lives(&alice).await, "now it is remembered");
    let mut users = cluster[0].users(&alice);
    users.sign_out(SignOutReq {}).await.expect("SignOut");
    assert!(!cluster[0].token_lives(&alice).await, "dead at once here");
    session
        .assert_ends_with(NoticeCode::NcSignedOut, 4002)
        .await;
    eventually("it is dead there too", async || {
        (!cluster[1].token_lives(&alice).await).then_some(())
    })
    .await;
    let mut connection = cluster[1].open(transport).await;
    assert_code(&connection.sign_in(&alice).await, SIGN_IN_AGAIN);
    connection.assert_closes(1008).await;
    others.heartbeat().await;
    assert!(cluster[1].token_lives(&other).await);
}

async fn a_business_signs_out_everywhere(transport: Transport) {
    let plan = Cluster::plan(3).set("delivery.reconcile_interval_s", NEVER_S);
    let cluster = plan.start().await;
    let alice = cluster[0].new_user().await;
    let mut sessions = Vec::new();
    for at in 0..3 {
        let device = cluster[0].another_device_of(&alice).await;
        sessions.push(cluster[at].connect(transport, &device).await);
    }
    let request = IntSignOutReq {
        user_id: alice.user_id,
        device_id: 0,
    };
    let mut internal = cluster[0].internal();
    internal.sign_out(request).await.expect("LogicInt.SignOut");
    for session in &mut sessions {
        session
            .assert_ends_with(NoticeCode::NcSignedOut, 4002)
            .await;
    }
}

async fn a_password_set_on_one_instance_ends_sessions_on_the_other(transport: Transport) {
    let plan = Cluster::plan(2).set("delivery.reconcile_interval_s", NEVER_S);
    let cluster = plan.start().await;
    let alice = cluster[0].new_user().await;
    let other = cluster[1].another_device_of(&alice).await;
    let mut own = cluster[1].connect(transport, &alice).await;
    let mut others = cluster[1].connect(transport, &other).await;
    let request = SetPasswordReq {
        password: "correct horse".into(),
    };
    let mut users = cluster[0].users(&alice);
    users.set_password(request).await.expect("SetPassword");
    others.assert_ends_with(NoticeCode::NcSignedOut, 4002).await;
    own.heartbeat().await;
}

/// Nothing of the former user's is given to the device from then on (I11).
async fn a_new_user_of_a_device_ends_the_former_users_session(transport: Transport) {
    let plan = Cluster::plan(2).set("delivery.reconcile_interval_s", NEVER_S);
    let cluster = plan.start().await;
    let alice = cluster[0].new_user().await;
    let bob = cluster[0].new_user().await;
    let mut session = cluster[1].connect(transport, &alice).await;
    let new = cluster[0].sign_in(&bob.phone_number, alice.device_id).await;
    session
        .assert_ends_with(NoticeCode::NcSignedOut, 4002)
        .await;
    assert!(session.take_pushes().is_empty());
    let mut now = cluster[1].connect(transport, &new).await;
    now.heartbeat().await;
}

async fn without_redis_a_revocation_takes_effect_within_the_interval(transport: Transport) {
    let plan = Cluster::plan(2).with_links();
    let plan = plan.set("delivery.reconcile_interval_s", INTERVAL_S);
    let cluster = plan.start().await;
    let alice = cluster[0].new_user().await;
    let mut session = cluster[1].connect(transport, &alice).await;
    assert!(cluster[1].token_lives(&alice).await, "now it is remembered");
    for links in cluster.all_links() {
        links.redis.cut().await;
    }
    let started = Instant::now();
    let mut users = cluster[0].users(&alice);
    users.sign_out(SignOutReq {}).await.expect("SignOut");
    session
        .assert_ends_with(NoticeCode::NcSignedOut, 4002)
        .await;
    eventually("the call is refused", async || {
        (!cluster[1].token_lives(&alice).await).then_some(())
    })
    .await;
    let elapsed = started.elapsed();
    let allowed = Duration::from_secs(5 * INTERVAL_S) + BUSY;
    assert!(elapsed < allowed, "{elapsed:?}");
}
