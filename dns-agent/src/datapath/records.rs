//! From a name of the model to its record in the tables.

use dns_common::{
    checksum,
    names::{MAX_NAME, MIN_NAME},
    records::{ANSWERS, Answer, GRANULE, MAX_ANSWER, MAX_RECORD, MIN_ANSWER, Record},
    settings::MAX_SUFFIXES,
};

use crate::zone::{self, Model, Name, Node, Rdata, Rtype};

/// The record for an existing name, padded to whole granules, in the layout of
/// [`dns_common::records`].
///
/// `None` for a name of a length that the kernel doesn't look up: questions for it pass anyway.
#[must_use]
pub fn build(model: &Model, name: &Name, node: &Node) -> Option<Vec<u8>> {
    let octets = name.wire();
    if octets.len() < MIN_NAME || octets.len() > MAX_NAME {
        return None;
    }
    let mut head = Record {
        name_len: octets.len() as u16,
        flags: 0,
        slot: 0,
        zone: zone_number(model, name),
        reserved: 0,
        hash: 0,
        answers: [bytemuck::Zeroable::zeroed(); ANSWERS],
    };
    let mut body = octets.to_vec();
    body.resize(octets.len().next_multiple_of(8), 0);
    if node.is_alias() {
        // The answer may need the upstream, or change with another name's.
        head.flags |= Record::PASS;
    } else {
        let types: Vec<Rtype> = node.types().collect();
        for (number, rtype) in types.iter().enumerate() {
            if number == ANSWERS {
                head.flags |= Record::OTHER_TYPES_PASS;
                break;
            }
            head.answers[number] = answer(model, name, *rtype, &mut body);
        }
    }
    if node.below_is_computed() {
        head.flags |= Record::BELOW_UNKNOWN;
    }
    let length = size_of::<Record>() + body.len();
    let mut record = bytemuck::bytes_of(&head).to_vec();
    record.append(&mut body);
    record.resize(length.next_multiple_of(GRANULE), 0);
    Some(record)
}

/// Appends the answer for one type to the record's octets behind its head; without room, or when
/// the agent must work it out, the answer is marked as one that passes.
fn answer(model: &Model, name: &Name, rtype: Rtype, body: &mut Vec<u8>) -> Answer {
    let pass = Answer {
        rtype: rtype.to_int().to_be(),
        ..bytemuck::Zeroable::zeroed()
    };
    let answer = model.answer(name, rtype);
    if !matches!(answer, zone::Answer::Data { .. }) {
        return pass;
    }
    let rotations = rotations(&answer);
    let sections = zone::render(name, &answer, model.zones(), 0);
    let length = sections.bytes.len();
    let stride = length / usize::from(rotations);
    let stored = length + stride * (usize::from(rotations) - 1);
    let offset = size_of::<Record>() + body.len();
    if !(MIN_ANSWER..=MAX_ANSWER).contains(&length) || offset + stored > MAX_RECORD {
        return pass;
    }
    body.extend_from_slice(&sections.bytes);
    body.extend_from_slice(&sections.bytes[..stored - length]);
    body.resize(body.len().next_multiple_of(8), 0);
    Answer {
        rtype: rtype.to_int().to_be(),
        offset: offset as u16,
        length: length as u16,
        rotations,
        stride: stride as u16,
        answers: sections.answers.to_be(),
        additionals: sections.additionals.to_be(),
        sum: checksum::fold(checksum::sum(&sections.bytes)),
    }
}

/// How many addresses may take turns in the first place; 1 for every other answer.
fn rotations(answer: &zone::Answer) -> u16 {
    let zone::Answer::Data { answer, additional } = answer else {
        return 1;
    };
    let all_a = answer
        .iter()
        .all(|record| matches!(record.data, Rdata::A(_)));
    let all_aaaa = answer
        .iter()
        .all(|record| matches!(record.data, Rdata::Aaaa(_)));
    if !additional.is_empty() || !(all_a || all_aaaa) || answer.is_empty() {
        return 1;
    }
    answer.len() as u16
}

/// The zone's position in the settings.
fn zone_number(model: &Model, name: &Name) -> u16 {
    match model.zone_of(name) {
        Some(number) if number < MAX_SUFFIXES => number as u16,
        _ => Record::NO_ZONE,
    }
}
