//! How channels and keys in Redis are called. All begin with a prefix, so that clusters, and
//! tests, can share a Redis.

use std::fmt::Write as _;

use bytes::BytesMut;

use crate::{
    delivery::topic::Topic,
    id::{DeviceId, GroupId, RoomId, UserId},
};

/// Gives names and takes them apart.
#[derive(Clone, Debug)]
pub(in super::super) struct Names {
    prefix: String,
}

/// What a channel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    /// A topic, and news for those who follow it.
    Topic(Topic),
    /// News for every instance.
    News,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: format!("{prefix}:"),
        }
    }

    /// Writes the name of a channel.
    pub(super) fn put_channel(&self, out: &mut BytesMut, channel: Channel) {
        let written = match channel {
            Channel::Topic(Topic::User(id)) => write!(out, "{}u:{id}", self.prefix),
            Channel::Topic(Topic::Group(id)) => write!(out, "{}g:{id}", self.prefix),
            Channel::Topic(Topic::Room(id)) => write!(out, "{}r:{id}", self.prefix),
            Channel::Topic(Topic::Everyone) => write!(out, "{}all", self.prefix),
            Channel::News => write!(out, "{}news", self.prefix),
        };
        debug_assert!(written.is_ok(), "a buffer that grows takes everything");
    }

    /// The name of a channel.
    pub(super) fn channel(&self, channel: Channel) -> String {
        let mut out = BytesMut::with_capacity(self.prefix.len() + 24);
        self.put_channel(&mut out, channel);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// What the channel of that name is for, if it is one of ours.
    pub(super) fn parse(&self, name: &str) -> Option<Channel> {
        let name = name.strip_prefix(&self.prefix)?;
        let topic = match name {
            "news" => return Some(Channel::News),
            "all" => Topic::Everyone,
            _ => {
                let (kind, id) = name.split_once(':')?;
                let id = id.parse().ok()?;
                match kind {
                    "u" => Topic::User(UserId(id)),
                    "g" => Topic::Group(GroupId(id)),
                    "r" => Topic::Room(RoomId(id)),
                    _ => return None,
                }
            }
        };
        Some(Channel::Topic(topic))
    }

    /// The key under which stands where a device is signed in.
    pub(in super::super) fn device(&self, device: DeviceId) -> String {
        format!("{}d:{device}", self.prefix)
    }

    /// The key that is there while an instance is.
    pub(in super::super) fn instance(&self, instance: &str) -> String {
        format!("{}i:{instance}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_known_by_their_names() {
        let names = Names::new("im");
        for (channel, name) in [
            (Channel::Topic(Topic::User(UserId(1))), "im:u:1"),
            (Channel::Topic(Topic::Group(GroupId(2))), "im:g:2"),
            (Channel::Topic(Topic::Room(RoomId(3))), "im:r:3"),
            (Channel::Topic(Topic::Everyone), "im:all"),
            (Channel::News, "im:news"),
        ] {
            assert_eq!(names.channel(channel), name);
            assert_eq!(names.parse(name), Some(channel));
        }
        for foreign in ["", "im:", "im:u:", "im:u:x", "im:d:1", "imu:1", "other:u:1"] {
            assert_eq!(names.parse(foreign), None, "{foreign}");
        }
    }
}
