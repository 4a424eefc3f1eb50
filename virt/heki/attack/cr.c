// SPDX-License-Identifier: GPL-2.0
/*
 * Attacks that clear a protection bit of CR0 or CR4, on one vCPU after another.
 *
 * The registers are written by plain MOV: the kernel's own wrappers would put
 * the bit back.
 *
 * Neighbours: main.c, tools.c. Locks: none, one attack at a time; CPUs stay
 * online under cpus_read_lock().
 */
#include <linux/cpu.h>
#include <linux/smp.h>

#include <asm/special_insns.h>

#include "heki_attack.h"

/* One try on one vCPU. */
struct cr_try {
	unsigned long bit;
	bool present;
	bool cleared;
	int trap;
};

/* WP can go only after CET, which needs it. */
static void clear_cr0_here(void *info)
{
	struct cr_try *try = info;
	unsigned long cr0 = native_read_cr0(), cr4 = native_read_cr4();

	try->present = cr0 & try->bit;
	if (!try->present)
		return;
	if (try->bit == X86_CR0_WP && cr4 & X86_CR4_CET)
		try->trap = try_write_cr4(cr4 & ~X86_CR4_CET);
	if (!try->trap)
		try->trap = try_write_cr0(cr0 & ~try->bit);
	try->cleared = !(native_read_cr0() & try->bit);
	if (try->cleared)
		try_write_cr0(cr0);
	if (native_read_cr4() != cr4)
		try_write_cr4(cr4);
}

static void clear_cr4_here(void *info)
{
	struct cr_try *try = info;
	unsigned long cr4 = native_read_cr4();

	try->present = cr4 & try->bit;
	if (!try->present)
		return;
	try->trap = try_write_cr4(cr4 & ~try->bit);
	try->cleared = !(native_read_cr4() & try->bit);
	if (try->cleared)
		try_write_cr4(cr4);
}

static void on_every_vcpu(struct attack_report *report, smp_call_func_t clear,
			  unsigned long bit)
{
	unsigned int cpu;

	guard(cpus_read_lock)();
	for_each_online_cpu(cpu) {
		struct cr_try try = { .bit = bit };

		smp_call_function_single(cpu, clear, &try, 1);
		if (!try.present) {
			attack_say(report, ATTACK_ABSENT, "the bit is not set on vCPU %u", cpu);
			return;
		}
		attack_judge(report, try.trap, try.cleared);
	}
}

void attack_cr0_wp(struct attack_report *report)
{
	on_every_vcpu(report, clear_cr0_here, X86_CR0_WP);
}

void attack_cr0_ne(struct attack_report *report)
{
	on_every_vcpu(report, clear_cr0_here, X86_CR0_NE);
}

void attack_cr0_am(struct attack_report *report)
{
	on_every_vcpu(report, clear_cr0_here, X86_CR0_AM);
}

void attack_cr4_smep(struct attack_report *report)
{
	on_every_vcpu(report, clear_cr4_here, X86_CR4_SMEP);
}

void attack_cr4_smap(struct attack_report *report)
{
	on_every_vcpu(report, clear_cr4_here, X86_CR4_SMAP);
}

void attack_cr4_umip(struct attack_report *report)
{
	on_every_vcpu(report, clear_cr4_here, X86_CR4_UMIP);
}

void attack_cr4_fsgsbase(struct attack_report *report)
{
	on_every_vcpu(report, clear_cr4_here, X86_CR4_FSGSBASE);
}

void attack_cr4_cet(struct attack_report *report)
{
	on_every_vcpu(report, clear_cr4_here, X86_CR4_CET);
}
