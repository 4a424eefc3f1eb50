// SPDX-License-Identifier: GPL-2.0

//! Lengths of instructions: those that are not known, each form of operand, any bytes.

use heki_policy::patch::length::{shape, Copied, Copied::*, Shape};
use proptest::prelude::*;

fn is(bytes: &[u8], distance: Option<usize>, copied: Copied) {
    let expected = Shape {
        len: bytes.len(),
        distance,
        copied,
    };
    // What follows, INT3 or anything, changes nothing.
    for filler in [0xcc, 0, 0xff] {
        let mut code = bytes.to_vec();
        code.resize(20, filler);
        assert_eq!(shape(&code), Some(expected), "{bytes:x?}");
    }
    // Nor does the end of memory, but it must be all there.
    assert_eq!(shape(bytes), Some(expected), "{bytes:x?}");
    for len in 0..bytes.len() {
        assert_eq!(shape(&bytes[..len]), None, "{:x?}", &bytes[..len]);
    }
}

#[test]
fn what_is_not_known() {
    for bytes in [
        &[][..],
        &[0x66],
        &[0x0f],
        &[0x06],                         // none in 64-bit mode
        &[0x62, 0xf1, 0x7c, 0x48, 0x10], // EVEX
        &[0xc5, 0xf8, 0x77],             // VEX
        &[0xc4, 0xe2, 0x7d, 0x18, 0x00],
        &[0x8f, 0xe8, 0x78, 0xc0], // XOP
        &[0x9a, 0, 0, 0, 0, 0, 0],
        &[0xea, 0, 0, 0, 0, 0, 0],
        &[0xff, 0x1f], // far call
        &[0xff, 0x2f], // far jump
        &[0xff, 0xff],
        &[0xc7, 0xf8, 0, 0, 0, 0],             // XBEGIN
        &[0xc6, 0xf8, 0],                      // XABORT
        &[0x0f, 0x05],                         // SYSCALL
        &[0x0f, 0x07],                         // SYSRET
        &[0xcf],                               // IRET
        &[0x66, 0xe9, 0, 0, 0, 0],             // processors do not agree
        &[0x66, 0x0f, 0x84, 0, 0, 0, 0],       // nor here
        &[0x67, 0x8b, 0x05, 0, 0, 0, 0],       // memory near EIP
        &[0x48, 0x66, 0x90],                   // REX not last
        &[0x40, 0x48, 0x89, 0xd8],             // REX twice
        &[0x2e; 16],                           // too long
        &[0x66, 0x66, 0x66, 0x66, 0x66, 0x66], // and then nothing
    ] {
        assert_eq!(shape(bytes), None, "{bytes:x?}");
    }
    // Of more than 15 bytes.
    let mut long = vec![0x2e; 6];
    long.extend([0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(shape(&long), None);
    assert_eq!(shape(&long[1..]).unwrap().len, 15);
}

#[test]
fn what_compilers_write() {
    for bytes in [
        &[0x55][..],                                    // push %rbp
        &[0x41, 0x57],                                  // push %r15
        &[0x90],                                        // nop
        &[0xc3],                                        // ret
        &[0x48, 0x89, 0xe5],                            // mov %rsp,%rbp
        &[0x48, 0x8b, 0x03],                            // mov (%rbx),%rax
        &[0x48, 0x8b, 0x45, 0xf8],                      // mov -8(%rbp),%rax
        &[0x48, 0x8b, 0x04, 0x24],                      // mov (%rsp),%rax
        &[0x48, 0x8b, 0x44, 0x24, 8],                   // mov 8(%rsp),%rax
        &[0x48, 0x8b, 0x84, 0x24, 0, 1, 0, 0],          // mov 256(%rsp),%rax
        &[0x48, 0x8b, 0x80, 0, 1, 0, 0],                // mov 256(%rax),%rax
        &[0x65, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0], // mov %gs:0x28,%rax
        &[0x48, 0x8b, 0x04, 0xc5, 0, 0, 0, 0x80],       // mov table(,%rax,8),%rax
        &[0x49, 0x8b, 0x44, 0x05, 0x10],                // mov 16(%r13,%rax),%rax
        &[0xb8, 0xea, 0xff, 0xff, 0xff],                // mov $-22,%eax
        &[0x66, 0xb8, 0, 0],                            // mov $0,%ax
        &[0x48, 0xb8, 0, 0, 0, 0, 0, 0x80, 0xff, 0xff], // movabs
        &[0x66, 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0],    // REX.W wins
        &[0x48, 0xc7, 0xc0, 1, 0, 0, 0],                // mov $1,%rax
        &[0x66, 0xc7, 0x03, 1, 0],                      // movw $1,(%rbx)
        &[0xc6, 0x43, 8, 1],                            // movb $1,8(%rbx)
        &[0x48, 0x83, 0xec, 0x50],                      // sub $80,%rsp
        &[0x48, 0x81, 0xec, 0, 1, 0, 0],                // sub $256,%rsp
        &[0x66, 0x81, 0x3b, 0, 1],                      // cmpw $256,(%rbx)
        &[0x3c, 1],                                     // cmp $1,%al
        &[0x3d, 0, 1, 0, 0],                            // cmp $256,%eax
        &[0x66, 0x3d, 0, 1],                            // cmp $256,%ax
        &[0xf6, 0xc3, 1],                               // test $1,%bl
        &[0xf7, 0xc3, 0, 1, 0, 0],                      // test $256,%ebx
        &[0x66, 0xf7, 0xc3, 0, 1],                      // test $256,%bx
        &[0xf7, 0xdb],                                  // neg %ebx
        &[0x48, 0x69, 0xc0, 0, 1, 0, 0],                // imul $256,%rax,%rax
        &[0x6b, 0xc0, 10],                              // imul $10,%eax,%eax
        &[0x68, 0, 1, 0, 0],                            // push $256
        &[0x6a, 1],                                     // push $1
        &[0xc1, 0xe0, 4],                               // shl $4,%eax
        &[0xd3, 0xe0],                                  // shl %cl,%eax
        &[0xf3, 0x48, 0xab],                            // rep stos
        &[0x0f, 0x1f, 0x44, 0, 0],                      // nopl
        &[0xf3, 0x0f, 0x1e, 0xfa],                      // endbr64
        &[0x0f, 0xb6, 0x0f],                            // movzbl (%rdi),%ecx
        &[0xf0, 0x0f, 0xb1, 0x13],                      // lock cmpxchg
        &[0x0f, 0xba, 0xe0, 4],                         // bt $4,%eax
        &[0x0f, 0x20, 0x05],                            // mov %cr0,%rbp, whatever mod says
        &[0x0f, 0x22, 0xe0],                            // mov %rax,%cr4
        &[0x0f, 0x30],                                  // wrmsr
        &[0x0f, 0x01, 0xca],                            // clac
        &[0x0f, 0xc8],                                  // bswap
        &[0xf2, 0x48, 0x0f, 0x38, 0xf1, 0xc6],          // crc32
        &[0x66, 0x0f, 0x3a, 0x0f, 0xc1, 8],             // palignr
        &[0xc2, 8, 0],                                  // ret $8
        &[0xc8, 8, 0, 0],                               // enter
        &[0xa1, 1, 2, 3, 4, 5, 6, 7, 8],                // mov from an address
        &[0x67, 0xa1, 1, 2, 3, 4],                      // and from a short one
        &[0xff, 0xe0],                                  // jmp *%rax
        &[0xff, 0x75, 8],                               // push 8(%rbp)
        &[0x48, 0xff, 0xc0],                            // inc %rax
    ] {
        is(bytes, None, Same);
    }
}

#[test]
fn memory_near_the_instruction() {
    is(&[0x48, 0x8b, 0x05, 1, 2, 3, 4], Some(3), Same);
    is(&[0x65, 0x8b, 0x05, 1, 2, 3, 4], Some(3), Same);
    is(&[0x83, 0x3d, 1, 2, 3, 4, 0], Some(2), Same);
    is(&[0xc7, 0x05, 1, 2, 3, 4, 0, 0, 0, 0], Some(2), Same);
    is(&[0xf6, 0x05, 1, 2, 3, 4, 1], Some(2), Same);
    is(&[0x0f, 0xb6, 0x05, 1, 2, 3, 4], Some(3), Same);
    is(&[0x4c, 0x8d, 0x2d, 1, 2, 3, 4], Some(3), Same);
    is(&[0xff, 0x25, 1, 2, 3, 4], Some(2), Same);
}

#[test]
fn what_a_copy_would_not_do() {
    is(&[0xe8, 0, 0, 0, 0], None, Other);
    is(&[0xe9, 0, 0, 0, 0], None, Other);
    is(&[0xeb, 0], None, Other);
    is(&[0x74, 0], None, Other);
    is(&[0x0f, 0x84, 0, 0, 0, 0], None, Other);
    is(&[0x2e, 0xe8, 0, 0, 0, 0], None, Other);
    is(&[0xe3, 0], None, Other);
    is(&[0xff, 0xd0], None, Other);
    is(&[0xff, 0x15, 0, 0, 0, 0], Some(2), Other);
    is(&[0xcc], None, Trap);
    is(&[0xcd, 0x80], None, Trap);
    is(&[0xf1], None, Trap);
    is(&[0x0f, 0x0b], None, Trap);
    is(&[0x67, 0x48, 0x0f, 0xb9, 0x3a], None, Trap);
    is(&[0x0f, 0xff, 0xc0], None, Trap);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// A shape lies in the bytes, needs all of its own, and no other.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
        if let Some(found) = shape(&bytes) {
            prop_assert!((1..=15).contains(&found.len) && found.len <= bytes.len());
            prop_assert!(found.distance.is_none_or(|at| at >= 2 && at + 4 <= found.len));
            prop_assert_eq!(shape(&bytes[..found.len]), Some(found));
            prop_assert_eq!(shape(&bytes[..found.len - 1]), None);
        }
    }
}
