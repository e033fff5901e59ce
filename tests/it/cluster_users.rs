//! Accounts at a business server: what it tells one instance counts on every other at once, however
//! long their answers may be remembered (I8).

use im::pb::{IntSignOutReq, NoticeCode, UserChangedReq};

use crate::support::{
    Business, Cluster, Transport,
    cluster::{Plan, undisturbed},
    messages::text,
    wait::eventually,
};

const NEVER_S: u64 = 3_600;

on_each_transport!(
    a_sign_out_on_one_instance_counts_on_the_other,
    a_changed_user_is_seen_by_every_instance,
);

/// Two instances that remember for an hour whatever the business server said, unless something between
/// them was lost.
async fn prepare() -> (Plan, Business) {
    let business = Business::start().await;
    let plan = Cluster::plan(2)
        .set("users.provider", "remote")
        .set("users.endpoint", business.endpoint())
        .set("users.auth_cache_s", NEVER_S)
        .set("users.profile_cache_s", NEVER_S)
        .set("delivery.reconcile_interval_s", NEVER_S);
    (plan, business)
}

async fn a_sign_out_on_one_instance_counts_on_the_other(transport: Transport) {
    undisturbed(prepare, async |cluster, business| {
        let ada = cluster[0].device_of(1).await;
        let mut session = cluster[1].connect(transport, &ada).await;
        eventually("she is remembered", async || {
            let asked = business.calls("Auth 1");
            cluster[1].send(&ada, text(2, "x")).await;
            (asked > 0 && business.calls("Auth 1") == asked).then_some(())
        })
        .await;
        // Whoever still accepts her does so from memory.
        business.kill();
        cluster[1].send(&ada, text(2, "from memory")).await;
        let sign_out = IntSignOutReq {
            user_id: 1,
            device_id: ada.device_id,
        };
        let mut internal = cluster[0].internal();
        internal.sign_out(sign_out).await.expect("LogicInt.SignOut");
        session
            .assert_ends_with(NoticeCode::NcSignedOut, 4002)
            .await;
        eventually("nothing is accepted from memory", async || {
            cluster[1].try_send(&ada, text(2, "x")).await.err()
        })
        .await;
        business.start_again().await;
        eventually("the business is asked anew", async || {
            cluster[1].try_send(&ada, text(2, "x")).await.ok()
        })
        .await;
        eventually("it tells that it was asked", async || {
            (business.calls("Auth 1") > 0).then_some(())
        })
        .await;
    })
    .await;
}

async fn a_changed_user_is_seen_by_every_instance(transport: Transport) {
    undisturbed(prepare, async |cluster, business| {
        let (ada, bob) = (cluster[0].device_of(1).await, cluster[0].device_of(2).await);
        let mut to_bob = cluster[1].connect(transport, &bob).await;
        cluster[1].send(&ada, text(2, "still Ada")).await;
        assert_eq!(to_bob.push().await.sender.expect("one").nickname, "Ada");
        business.rename(1, "Countess of Lovelace").await;
        cluster[1].send(&ada, text(2, "remembered")).await;
        assert_eq!(to_bob.push().await.sender.expect("one").nickname, "Ada");
        let changed = UserChangedReq { user_id: 1 };
        let mut internal = cluster[0].internal();
        internal.user_changed(changed).await.expect("UserChanged");
        eventually("the other instance has heard", async || {
            cluster[1].send(&ada, text(2, "now")).await;
            let sender = to_bob.push().await.sender.expect("one");
            (sender.nickname == "Countess of Lovelace").then_some(())
        })
        .await;
    })
    .await;
}
