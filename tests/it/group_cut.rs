//! A send to a group is done once or not at all, however its sender's request ends: by a client that
//! gives the call up, or by a connection that is cut right after the package. What is stored is
//! delivered (I5), and a retry tells what became of it (I3).

use std::time::Duration;

use im::pb::PackageType;

use crate::support::{
    Server, Transport,
    crowd::ids,
    groups::{Group, KINDS},
    messages::{seqs, words},
    wire::BOTH,
};

on_each_transport!(
    a_connection_cut_right_after_its_send_hurts_nobody,
    a_given_up_call_hurts_nobody,
);

const ROUNDS: usize = 60;

/// What the online members were given must be the group's messages in order, each once.
struct Witnesses {
    connections: Vec<crate::support::Connection>,
}

impl Witnesses {
    async fn of(server: &Server, members: &[crate::support::Device]) -> Self {
        let mut connections = Vec::new();
        for (transport, member) in BOTH.into_iter().zip(members) {
            connections.push(server.connect(transport, member).await);
        }
        Self { connections }
    }

    /// Every witness has seen all of `expected`, and nothing else.
    async fn saw(&mut self, group: Group, expected: &[String]) {
        let mut given = Vec::new();
        for connection in &mut self.connections {
            let messages = connection.pushed(expected.len()).await;
            let texts: Vec<_> = messages.iter().map(words).collect();
            assert_eq!(texts, expected);
            assert!(messages.iter().all(|message| group.got(message)));
            let first = messages[0].seq;
            let gapless: Vec<_> = (first..first + expected.len() as i64).collect();
            assert_eq!(seqs(&messages), gapless);
            given.push(messages);
        }
        let ids = |n: usize| given[n].iter().map(|m| m.message_id).collect::<Vec<_>>();
        assert_eq!(ids(0), ids(1), "the same messages");
    }
}

async fn a_connection_cut_right_after_its_send_hurts_nobody(transport: Transport) {
    let server = Server::start().await;
    for kind in KINDS {
        let users = server.new_users(3).await;
        let group = server
            .create_group(&users[0], kind, &ids(&users[1..]))
            .await;
        let mut witnesses = Witnesses::of(&server, &users[1..]).await;
        let mut expected = Vec::new();
        for round in 0..ROUNDS {
            let text = format!("round {round}");
            let request = group.text_with_id(&text, &format!("{kind:?} {round}"));
            let mut connection = server.connect(transport, &users[0]).await;
            connection.start(PackageType::PtSendMessage, &request).await;
            drop(connection);
            // Whether it was stored or not: now it is, and only once.
            let first = server.send(&users[0], request.clone()).await;
            assert_eq!(server.send(&users[0], request).await, first);
            assert_eq!(first.seq, round as i64 + 2, "no gap and no repeat");
            expected.push(text);
        }
        witnesses.saw(group, &expected).await;
    }
}

async fn a_given_up_call_hurts_nobody(transport: Transport) {
    let server = Server::start().await;
    for kind in KINDS {
        let users = server.new_users(3).await;
        let group = server
            .create_group(&users[0], kind, &ids(&users[1..]))
            .await;
        let mut witnesses = Witnesses::of(&server, &users[1..]).await;
        let mut sender = server.connect(transport, &users[0]).await;
        let mut expected = Vec::new();
        let mut given_up = 0;
        for round in 0..ROUNDS {
            let text = format!("round {round}");
            let request = group.text_with_id(&text, &format!("{kind:?} {round}"));
            // From at once to about as long as a send takes.
            let patience = Duration::from_micros(150 * round as u64);
            let call = server.try_send(&users[0], request.clone());
            let ended = tokio::time::timeout(patience, call).await;
            given_up += usize::from(ended.is_err());
            let first = sender.send(&request).await;
            assert_eq!(first.seq, round as i64 + 2, "no gap and no repeat");
            expected.push(text);
        }
        assert!(given_up > 0, "no call was given up");
        witnesses.saw(group, &expected).await;
    }
}

/// Without any retry: what the group's timeline has is what its members were given.
#[tokio::test]
async fn whatever_was_stored_was_delivered() {
    let server = Server::start().await;
    for kind in KINDS {
        let users = server.new_users(2).await;
        let group = server
            .create_group(&users[0], kind, &ids(&users[1..]))
            .await;
        let mut witness = server.connect(Transport::Tcp, &users[1]).await;
        for round in 0..ROUNDS {
            let request = group.text(&format!("round {round}"));
            if round % 2 == 0 {
                let transport = BOTH[round / 2 % 2];
                let mut connection = server.connect(transport, &users[0]).await;
                connection.start(PackageType::PtSendMessage, &request).await;
            } else {
                let patience = Duration::from_micros(100 * round as u64);
                let call = server.try_send(&users[0], request);
                let _given_up = tokio::time::timeout(patience, call).await;
            }
        }
        server.send(&users[0], group.text("end")).await;
        let mut given = vec![witness.push().await];
        while words(given.last().expect("one")) != "end" {
            given.push(witness.push().await);
        }
        let stored = match kind {
            im::pb::GroupType::GtLarge => server.group_timeline(&users[1], group).await,
            _ => server.timeline(&users[1]).await,
        };
        // What was on its way may have been stored after the end.
        let stored = &stored[1..];
        assert!(stored.len() >= given.len());
        assert_eq!(given, stored[..given.len()], "all but the creation");
        for late in &stored[given.len()..] {
            assert_eq!(witness.push().await, *late);
        }
    }
}
