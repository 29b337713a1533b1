//! What a channel of a herd is called in Redis.
//!
//! `hw:{HERD}:CHANNEL`: the prefix keeps us apart from whatever else uses the server (pub/sub knows no database
//! numbers), the braces make the herd the hash tag, so that all of a herd's channels lie in one slot of a cluster.
//! Pure.
//!
//! Invariants
//! - Two topics never share a name: what has a meaning in a name is percent-encoded in its parts.
//! - A name is printable, whatever the topic holds.

use std::fmt::Write;

use crate::relay::Topic;

/// The Redis channel of a topic.
pub(super) fn channel_of(topic: &Topic) -> String {
    let mut name = String::with_capacity("hw:{}:".len() + topic.herd.len() + topic.channel.len());
    name.push_str("hw:{");
    push_escaped(&mut name, &topic.herd);
    name.push_str("}:");
    push_escaped(&mut name, &topic.channel);
    name
}

fn push_escaped(name: &mut String, part: &str) {
    for character in part.chars() {
        match character {
            '{' | '}' | ':' | '%' => push_encoded(name, character),
            character if character.is_control() => push_encoded(name, character),
            character => name.push(character),
        }
    }
}

fn push_encoded(name: &mut String, character: char) {
    let mut bytes = [0; 4];
    for byte in character.encode_utf8(&mut bytes).bytes() {
        write!(name, "%{byte:02X}").expect("a String takes whatever is written to it");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_plain_topic_keeps_its_words() {
        assert_eq!(channel_of(&Topic::new("shop", "orders.new")), "hw:{shop}:orders.new");
        assert_eq!(channel_of(&Topic::new("magazin", "żółw 🐢")), "hw:{magazin}:żółw 🐢");
    }

    #[test]
    fn what_has_a_meaning_in_a_name_is_encoded_in_its_parts() {
        assert_eq!(channel_of(&Topic::new("a}:b", "c")), "hw:{a%7D%3Ab}:c");
        assert_eq!(channel_of(&Topic::new("a", "b}:c")), "hw:{a}:b%7D%3Ac");
        assert_eq!(channel_of(&Topic::new("100%", "{\r\n\u{85}")), "hw:{100%25}:%7B%0D%0A%C2%85");
    }

    proptest! {
        #[test]
        fn two_topics_never_share_a_name(
            a in "[ab:%{}7D\n]{0,5}", b in "[ab:%{}7D\n]{0,5}", c in "[ab:%{}7D\n]{0,5}", d in "[ab:%{}7D\n]{0,5}"
        ) {
            let (one, other) = (Topic::new(&a, &b), Topic::new(&c, &d));
            prop_assert_eq!(one == other, channel_of(&one) == channel_of(&other));
        }
    }
}
