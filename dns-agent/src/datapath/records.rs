//! From a name of the model to its record in the tables.

use bytemuck::Zeroable as _;
use dns_common::{
    checksum,
    names::{MAX_NAME, MIN_NAME},
    records::{ANSWERS, Answer, GRANULE, MAX_ANSWER, MAX_RECORD, MIN_ANSWER, Record},
    settings::MAX_SUFFIXES,
};

use crate::zone::{self, Below, Name, Node, Rdata, Rest, Rtype, Sections, ZoneData};

/// The record for an existing name, padded to whole granules, in the layout of
/// [`dns_common::records`].
///
/// `None` for a name of a length that the kernel doesn't look up: questions for it pass anyway.
#[must_use]
pub fn build(model: &dyn ZoneData, name: &Name, node: &Node) -> Option<Vec<u8>> {
    let octets = name.wire();
    if octets.len() < MIN_NAME || octets.len() > MAX_NAME {
        return None;
    }
    let mut head = Record {
        name_len: octets.len() as u16,
        flags: 0,
        slot: 0,
        zone: zone_number(model, name),
        too_large: 0,
        hash: 0,
        answers: [Answer::zeroed(); ANSWERS],
    };
    let mut body = octets.to_vec();
    body.resize(octets.len().next_multiple_of(8), 0);
    let children = children(model, name, node);
    if children.is_some() {
        body.resize(body.len() + size_of_val(&head.answers), 0);
    }

    let own = own_answers(model, name, node);
    let has_data: Vec<bool> = own
        .iter()
        .map(|(rtype, _)| is_data(model, name, *rtype))
        .collect();
    // An alias has the addresses that it leads to, whoever answers for its other types.
    let others_pass = node.rest() == Rest::Passed && !node.is_alias();
    if own.len() > ANSWERS || others_pass {
        head.flags |= Record::OTHER_TYPES_PASS;
    }
    if node.is_alias() {
        head.flags |= Record::ALIAS;
    }
    head.answers = place(own, &mut body);
    let placed = head.answers.iter().map(|answer| answer.length > 0);
    let placed = placed.chain(std::iter::repeat(false));
    let missing = has_data
        .iter()
        .zip(placed)
        .filter(|(has_data, placed)| **has_data && !placed);
    head.too_large = missing.count() as u16;
    match children {
        Some(children) => {
            head.flags |= children.flags;
            let answers = place(children.answers, &mut body);
            let at = Record::children_at(octets.len()) - size_of::<Record>();
            let octets = bytemuck::bytes_of(&answers);
            body[at..at + octets.len()].copy_from_slice(octets);
        }
        None if node.below_is_computed() => head.flags |= Record::BELOW_UNKNOWN,
        None => {}
    }

    let length = size_of::<Record>() + body.len();
    let mut record = bytemuck::bytes_of(&head).to_vec();
    record.append(&mut body);
    record.resize(length.next_multiple_of(GRANULE), 0);
    Some(record)
}

/// An answer as octets, in every order that it may be given in.
struct Rendered {
    /// The answer in its first order.
    sections: Sections,
    /// What the answer starts from: [`Answer::rotations`] of them, [`Answer::stride`] apart.
    stored: Vec<u8>,
    rotations: usize,
    stride: usize,
}

/// Answers by type, none for a type without data. `None`: the agent must answer.
type Answers = Vec<(Rtype, Option<Rendered>)>;

/// What the names one label below have that have no record.
struct Children {
    flags: u8,
    answers: Answers,
}

/// The answers of a name for the types that it has data of, and for the addresses that an alias leads to.
fn own_answers(model: &dyn ZoneData, name: &Name, node: &Node) -> Answers {
    let mut types: Vec<Rtype> = node.types().collect();
    if node.is_alias() {
        types.extend([Rtype::A, Rtype::AAAA]);
    }
    types
        .into_iter()
        .filter_map(|rtype| match model.answer(name, rtype) {
            zone::Answer::NoData { .. } => None,
            answer => Some((rtype, render(model, name, &answer))),
        })
        .collect()
}

/// Whether a type is answered with data: all of it is known here.
fn is_data(model: &dyn ZoneData, name: &Name, rtype: Rtype) -> bool {
    matches!(model.answer(name, rtype), zone::Answer::Data { .. })
}

/// What the kernel may say of all children alike; `None` when there are none, or when what they have
/// is not the same for all.
fn children(model: &dyn ZoneData, name: &Name, node: &Node) -> Option<Children> {
    // Stands for every child: what is rendered below does not depend on its name.
    let child = name.child(b"0").ok()?;
    let same = |owner: &Name, rtype: Rtype| {
        let answer = match model.answer(owner, rtype) {
            zone::Answer::Data { answer, additional } if additional.is_empty() => answer,
            _ => return None,
        };
        let answer = answer.into_iter().map(|record| zone::Record {
            owner: child.clone(),
            ..record
        });
        let answer = zone::Answer::Data {
            answer: answer.collect(),
            additional: Vec::new(),
        };
        render(model, &child, &answer)
    };
    match node.below() {
        Below::Nothing | Below::EmptyThenAddresses(_) | Below::Unknown => None,
        Below::Empty => Some(Children {
            flags: Record::CHILDREN,
            answers: Vec::new(),
        }),
        Below::Like(other) => {
            let other_node = model.node(other)?;
            let types = other_node.types();
            // SRV data and what comes with it point at names, whose places depend on the child's.
            let answers: Answers = types.map(|rtype| (rtype, same(other, rtype))).collect();
            (answers.len() <= ANSWERS).then_some(Children {
                flags: Record::CHILDREN,
                answers,
            })
        }
        Below::Addresses(ttl) => {
            let address = zone::Answer::Data {
                answer: vec![zone::Record {
                    owner: child.clone(),
                    ttl: *ttl,
                    data: Rdata::A([0; 4].into()),
                }],
                additional: Vec::new(),
            };
            Some(Children {
                flags: Record::CHILDREN | Record::CHILDREN_ARE_ADDRESSES,
                answers: vec![
                    (Rtype::A, render(model, &child, &address)),
                    (Rtype::SRV, None),
                ],
            })
        }
    }
}

/// Appends answers to the octets behind a record's head, and says where they are. Those for which there
/// is no room, or which the agent must work out, are marked as ones that pass.
fn place(answers: Answers, body: &mut Vec<u8>) -> [Answer; ANSWERS] {
    let mut placed = [Answer::zeroed(); ANSWERS];
    for (answer, (rtype, rendered)) in placed.iter_mut().zip(answers) {
        answer.rtype = rtype.to_int().to_be();
        let offset = size_of::<Record>() + body.len();
        let Some(rendered) = rendered.filter(|it| offset + it.stored.len() <= MAX_RECORD) else {
            continue;
        };
        body.extend_from_slice(&rendered.stored);
        body.resize(body.len().next_multiple_of(8), 0);
        let Rendered {
            sections,
            rotations,
            stride,
            ..
        } = rendered;
        *answer = Answer {
            rtype: answer.rtype,
            offset: offset as u16,
            length: sections.bytes.len() as u16,
            rotations: rotations as u16,
            stride: stride as u16,
            answers: sections.answers.to_be(),
            additionals: sections.additionals.to_be(),
            sum: checksum::fold(checksum::sum(&sections.bytes)),
        };
    }
    placed
}

/// The octets of an answer to a question for `name`; `None` when it is no data of ours, or of a length
/// that no record holds.
fn render(model: &dyn ZoneData, name: &Name, answer: &zone::Answer) -> Option<Rendered> {
    let zone::Answer::Data {
        answer: records,
        additional,
    } = answer
    else {
        return None;
    };
    let order = |rotation| zone::render(name, answer, model.zones(), rotation);
    let sections = order(0);
    let length = sections.bytes.len();
    if !(MIN_ANSWER..=MAX_ANSWER).contains(&length) {
        return None;
    }
    let rotations = zone::orders(records);
    let (stored, stride) = if rotations == 1 {
        (sections.bytes.clone(), 0)
    } else if rotations == records.len() && additional.is_empty() {
        // Records of one length: the octets of any order stand in those of two rounds.
        let stride = length / rotations;
        let more = &sections.bytes[..length - stride];
        ([&sections.bytes, more].concat(), stride)
    } else {
        let stride = length.next_multiple_of(8);
        let mut stored = Vec::with_capacity(rotations * stride);
        for rotation in 0..rotations {
            stored.extend(order(rotation).bytes);
            stored.resize((rotation + 1) * stride, 0);
        }
        (stored, stride)
    };
    Some(Rendered {
        sections,
        stored,
        rotations,
        stride,
    })
}

/// The zone's position in the settings.
fn zone_number(model: &dyn ZoneData, name: &Name) -> u16 {
    match model.zone_of(name) {
        Some(number) if number < MAX_SUFFIXES => number as u16,
        _ => Record::NO_ZONE,
    }
}
