// SPDX-License-Identifier: GPL-2.0

//! What a lookup of the rights of a frame costs, which the fault path does once for each fault.
//!
//! `cargo bench` in this folder; `make bench` runs it too. Beside the permission map: a tree of one
//! value for each page (`radix.rs`), and the crate `rangemap`. All three are asked for the same frames,
//! half of which lie in a range, in an order that no cache foresees. Locks: none.

mod subject;

use criterion::{
    criterion_group,
    criterion_main,
    BenchmarkId,
    Criterion,
    Throughput, //
};
use subject::{
    ask,
    Subject,
    QUERIES,
    STRUCTURES, //
};

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(QUERIES as u64));
    for count in [10, 1_000, 100_000] {
        let subject = Subject::new(count);
        let queries = subject.queries();
        subject.check(&queries);
        println!(
            "{count} ranges: map {} bytes, a value for each page {} bytes",
            size_of_val(subject.regions.as_slice()),
            subject.pages.bytes()
        );
        for structure in STRUCTURES {
            group.bench_function(BenchmarkId::new(structure, count), |bencher| {
                bencher.iter(|| ask(&subject, structure, &queries));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, lookup);
criterion_main!(benches);
