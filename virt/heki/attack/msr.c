// SPDX-License-Identifier: GPL-2.0
/*
 * Attacks that change a descriptor-table register, XCR0 or an MSR, on one vCPU after another.
 *
 * What is changed is harmless for the moment that it takes to put it back with
 * interrupts off: a bit that this code does not depend on.
 *
 * Neighbours: main.c, tools.c. Locks: none, one attack at a time; CPUs stay
 * online under cpus_read_lock().
 */
#include <linux/cpu.h>
#include <linux/slab.h>
#include <linux/smp.h>

#include <asm/cpu_entry_area.h>
#include <asm/cpuid/api.h>
#include <asm/desc.h>
#include <asm/fpu/xcr.h>
#include <asm/msr.h>

#include "heki_attack.h"

/* One try on one vCPU. */
struct msr_try {
	u32 index;
	u64 flip;
	bool absent;
	bool changed;
	int trap;
};

static void change_msr_here(void *info)
{
	struct msr_try *try = info;
	u64 before, after;

	try->absent = rdmsrq_safe(try->index, &before);
	if (try->absent)
		return;
	try->trap = try_write_msr(try->index, before ^ try->flip);
	rdmsrq(try->index, after);
	try->changed = after != before;
	if (try->changed)
		try_write_msr(try->index, before);
}

/* Without the state of AVX and what is above it, or of SSE. */
static void change_xcr0_here(void *info)
{
	struct msr_try *try = info;
	u64 before;

	try->absent = !cpu_feature_enabled(X86_FEATURE_OSXSAVE);
	if (try->absent)
		return;
	before = xgetbv(XCR_XFEATURE_ENABLED_MASK);
	try->absent = before == 1;
	if (try->absent)
		return;
	try->trap = try_write_xcr0(before == 3 ? 1 : 3);
	try->changed = xgetbv(XCR_XFEATURE_ENABLED_MASK) != before;
	if (try->changed)
		try_write_xcr0(before);
}

/* A copy of the table or segment, in which an attacker could write. */
static void *other_table;

static void move_idt_here(void *info)
{
	struct desc_ptr before, after, other;
	struct msr_try *try = info;

	store_idt(&before);
	other = before;
	other.address = (unsigned long)other_table;
	memcpy(other_table, (void *)before.address, before.size + 1);
	try->trap = try_load_idt(&other);
	store_idt(&after);
	try->changed = after.address != before.address;
	if (try->changed)
		try_load_idt(&before);
}

/* Without the last gate, or segment, which nothing uses while interrupts are off. */
static void shrink_idt_here(void *info)
{
	struct desc_ptr before, after, other;
	struct msr_try *try = info;

	store_idt(&before);
	other = before;
	other.size -= sizeof(gate_desc);
	try->trap = try_load_idt(&other);
	store_idt(&after);
	try->changed = after.size != before.size;
	if (try->changed)
		try_load_idt(&before);
}

static void shrink_gdt_here(void *info)
{
	struct desc_ptr before, after, other;
	struct msr_try *try = info;

	native_store_gdt(&before);
	other = before;
	other.size -= sizeof(struct desc_struct);
	try->trap = try_load_gdt(&other);
	native_store_gdt(&after);
	try->changed = after.size != before.size;
	if (try->changed)
		try_load_gdt(&before);
}

static void move_gdt_here(void *info)
{
	struct desc_ptr before, after, other;
	struct msr_try *try = info;

	native_store_gdt(&before);
	other = before;
	other.address = (unsigned long)other_table;
	memcpy(other_table, (void *)before.address, before.size + 1);
	try->trap = try_load_gdt(&other);
	native_store_gdt(&after);
	try->changed = after.address != before.address;
	if (try->changed)
		try_load_gdt(&before);
}

/* A system descriptor takes two entries. Those for TLS are free while interrupts are off. */
#define SPARE	GDT_ENTRY_TLS_MIN

static void load_ldt_here(void *info)
{
	struct desc_struct *gdt = get_cpu_gdt_rw(smp_processor_id());
	struct desc_struct old[2] = { gdt[SPARE], gdt[SPARE + 1] };
	struct msr_try *try = info;
	unsigned long before, after;

	store_ldt(before);
	set_tssldt_descriptor(&gdt[SPARE], (unsigned long)other_table, DESC_LDT, PAGE_SIZE - 1);
	try->trap = try_load_ldt(SPARE * 8);
	store_ldt(after);
	try->changed = (u16)after == SPARE * 8;
	if (try->changed)
		try_load_ldt(before);
	gdt[SPARE] = old[0];
	gdt[SPARE + 1] = old[1];
}

/* LTR writes into the table, so its read-only alias has to be writable for the moment. */
static void load_tr_here(void *info)
{
	struct desc_struct *gdt = get_cpu_gdt_rw(smp_processor_id());
	struct desc_struct old[2] = { gdt[SPARE], gdt[SPARE + 1] };
	struct msr_try *try = info;
	unsigned long before, after;
	struct leaf leaf;

	try->absent = !leaf_find(&leaf, (unsigned long)get_current_gdt_ro());
	if (try->absent)
		return;
	leaf_edit(&leaf, _PAGE_RW | _PAGE_DIRTY, 0);
	store_tr(before);
	memcpy(other_table, &get_cpu_entry_area(smp_processor_id())->tss.x86_tss,
	       sizeof(struct x86_hw_tss));
	set_tssldt_descriptor(&gdt[SPARE], (unsigned long)other_table, DESC_TSS,
			      sizeof(struct x86_hw_tss) - 1);
	try->trap = try_load_tr(SPARE * 8);
	store_tr(after);
	try->changed = after != before;
	if (try->changed) {
		gdt[GDT_ENTRY_TSS].type = DESC_TSS;
		try_load_tr(before);
	}
	gdt[SPARE] = old[0];
	gdt[SPARE + 1] = old[1];
	leaf_restore(&leaf);
}

static void on_every_vcpu(struct attack_report *report, smp_call_func_t change, u32 index,
			  u64 flip)
{
	unsigned int cpu;

	guard(cpus_read_lock)();
	for_each_online_cpu(cpu) {
		struct msr_try try = { .index = index, .flip = flip };

		smp_call_function_single(cpu, change, &try, 1);
		if (try.absent) {
			attack_say(report, ATTACK_ABSENT, "vCPU %u has no such register", cpu);
			return;
		}
		attack_judge(report, try.trap, try.changed);
	}
}

static void change_msr(struct attack_report *report, u32 index, u64 flip)
{
	on_every_vcpu(report, change_msr_here, index, flip);
}

/* What not every CPU can have set. */
static void change_feature(struct attack_report *report, bool has, u32 index, u64 flip)
{
	if (has)
		change_msr(report, index, flip);
	else
		attack_say(report, ATTACK_ABSENT, "this CPU lacks the feature");
}

static void change_table(struct attack_report *report, smp_call_func_t change)
{
	other_table = (void *)get_zeroed_page(GFP_KERNEL);
	if (!other_table) {
		attack_say(report, ATTACK_INCONCLUSIVE, "no memory");
		return;
	}
	on_every_vcpu(report, change, 0, 0);
	free_page((unsigned long)other_table);
}

void attack_idtr(struct attack_report *report)
{
	change_table(report, move_idt_here);
}

void attack_gdtr(struct attack_report *report)
{
	change_table(report, move_gdt_here);
}

void attack_idtr_limit(struct attack_report *report)
{
	on_every_vcpu(report, shrink_idt_here, 0, 0);
}

void attack_gdtr_limit(struct attack_report *report)
{
	on_every_vcpu(report, shrink_gdt_here, 0, 0);
}

void attack_ldtr(struct attack_report *report)
{
	change_table(report, load_ldt_here);
}

void attack_tr(struct attack_report *report)
{
	change_table(report, load_tr_here);
}

void attack_xcr0(struct attack_report *report)
{
	on_every_vcpu(report, change_xcr0_here, 0, 0);
}

/* Without EFER.NX, the next page that the kernel touches would fault. */
void attack_efer(struct attack_report *report)
{
	change_msr(report, MSR_EFER, EFER_SCE);
}

void attack_star(struct attack_report *report)
{
	change_msr(report, MSR_STAR, 1ull << 35);
}

void attack_lstar(struct attack_report *report)
{
	change_msr(report, MSR_LSTAR, 1ull << 12);
}

void attack_cstar(struct attack_report *report)
{
	change_msr(report, MSR_CSTAR, 1ull << 12);
}

void attack_sfmask(struct attack_report *report)
{
	change_msr(report, MSR_SYSCALL_MASK, X86_EFLAGS_IF);
}

void attack_sysenter_cs(struct attack_report *report)
{
	change_msr(report, MSR_IA32_SYSENTER_CS, 1ull << 3);
}

void attack_sysenter_esp(struct attack_report *report)
{
	change_msr(report, MSR_IA32_SYSENTER_ESP, 1ull << 12);
}

void attack_sysenter_eip(struct attack_report *report)
{
	change_msr(report, MSR_IA32_SYSENTER_EIP, 1ull << 12);
}

/* The type of the last of eight entries: write-through becomes write-back, or so. */
void attack_pat(struct attack_report *report)
{
	change_msr(report, MSR_IA32_CR_PAT, 2ull << 56);
}

void attack_apic_base(struct attack_report *report)
{
	change_msr(report, MSR_IA32_APICBASE, 1ull << 20);
}

void attack_misc_enable(struct attack_report *report)
{
	change_msr(report, MSR_IA32_MISC_ENABLE, MSR_IA32_MISC_ENABLE_FAST_STRING);
}

#define XSS_CET_USER	(1ull << 11)

void attack_xss(struct attack_report *report)
{
	u32 eax, ebx, ecx = 0, edx;

	if (boot_cpu_has(X86_FEATURE_XSAVES))
		cpuid_count(0xd, 1, &eax, &ebx, &ecx, &edx);
	change_feature(report, ecx & XSS_CET_USER, MSR_IA32_XSS, XSS_CET_USER);
}

static bool has_shadow_stacks(void)
{
	return cpuid_eax(0) >= 7 && cpuid_ecx(7) & BIT(7);
}

void attack_s_cet(struct attack_report *report)
{
	change_feature(report, has_shadow_stacks(), MSR_IA32_S_CET, CET_WRSS_EN);
}

#define XSS_CET_S	(1ull << 12)

/*
 * Where XSS has CET_S no pin would hold them, for XRSTORS loads them. Without supervisor
 * shadow stacks, which S_CET turns on, they mean nothing.
 */
static void change_ssp(struct attack_report *report, u32 index)
{
	u64 xss = 0, s_cet = 0;

	rdmsrq_safe(MSR_IA32_XSS, &xss);
	rdmsrq_safe(MSR_IA32_S_CET, &s_cet);
	if (has_shadow_stacks() && xss & XSS_CET_S && !(s_cet & CET_SHSTK_EN))
		attack_say(report, ATTACK_ABSENT, "supervisor shadow stacks are off, so nothing reads it");
	else
		change_feature(report, has_shadow_stacks(), index, 1ull << 12);
}

void attack_pl0_ssp(struct attack_report *report)
{
	change_ssp(report, MSR_IA32_PL0_SSP);
}

void attack_pl1_ssp(struct attack_report *report)
{
	change_ssp(report, MSR_IA32_PL1_SSP);
}

void attack_pl2_ssp(struct attack_report *report)
{
	change_ssp(report, MSR_IA32_PL2_SSP);
}

void attack_ssp_table(struct attack_report *report)
{
	change_feature(report, has_shadow_stacks(), MSR_IA32_INT_SSP_TAB, 1ull << 12);
}

/* The kernel locks it at boot where it can: then nobody changes it. */
void attack_feature_control(struct attack_report *report)
{
	u64 control = FEAT_CTL_LOCKED;

	rdmsrq_safe(MSR_IA32_FEAT_CTL, &control);
	change_feature(report, !(control & FEAT_CTL_LOCKED), MSR_IA32_FEAT_CTL,
		       FEAT_CTL_LMCE_ENABLED);
}

#define VM_CR_R_INIT	(1ull << 1)

void attack_vm_cr(struct attack_report *report)
{
	change_msr(report, MSR_VM_CR, VM_CR_R_INIT);
}

void attack_tsx_ctrl(struct attack_report *report)
{
	change_msr(report, MSR_IA32_TSX_CTRL, TSX_CTRL_RTM_DISABLE);
}

void attack_de_cfg(struct attack_report *report)
{
	u64 de_cfg = 0;

	rdmsrq_safe(MSR_AMD64_DE_CFG, &de_cfg);
	change_feature(report, de_cfg & MSR_AMD64_DE_CFG_LFENCE_SERIALIZE, MSR_AMD64_DE_CFG,
		       MSR_AMD64_DE_CFG_LFENCE_SERIALIZE);
}
