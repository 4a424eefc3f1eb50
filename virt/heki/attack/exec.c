// SPDX-License-Identifier: GPL-2.0
/*
 * Attacks that run, in supervisor mode, code that came after the seal.
 *
 * Neighbours: main.c, tools.c. Locks: none, one attack at a time; the mmap lock
 * of the caller inside vm_mmap() and get_user_pages_fast().
 */
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/sched/mm.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include <asm/cpufeature.h>
#include <asm/pgtable.h>
#include <asm/special_insns.h>

#include "heki_attack.h"

/* Not zero, so that it is .data and not .bss. */
static u8 data_page[PAGE_SIZE] __aligned(PAGE_SIZE) = { 1 };

/* Runs the payload at code through the entry that maps it, made executable. */
static void run_made_executable(struct attack_report *report, void *code)
{
	unsigned long flags;
	struct leaf leaf;
	bool ran;
	int trap;

	if (!leaf_find(&leaf, (unsigned long)code)) {
		attack_say(report, ATTACK_INCONCLUSIVE, "no mapping to attack");
		return;
	}
	local_irq_save(flags);
	leaf_edit(&leaf, 0, _PAGE_NX);
	trap = try_call((unsigned long)code, &ran);
	leaf_restore(&leaf);
	local_irq_restore(flags);
	flush_everywhere();
	attack_judge(report, trap, ran);
}

void attack_exec_vmalloc(struct attack_report *report)
{
	void *code = vmalloc(PAGE_SIZE);

	if (!code) {
		attack_say(report, ATTACK_INCONCLUSIVE, "no memory");
		return;
	}
	payload_copy(code);
	run_made_executable(report, code);
	vfree(code);
}

void attack_exec_data(struct attack_report *report)
{
	payload_copy(data_page);
	run_made_executable(report, data_page);
}

/*
 * A page behind the memory that the kernel has: the test's VMM gives the guest more
 * than mem= lets it use. The seal did not know it, as it does not know memory that is
 * plugged in later.
 */
void attack_exec_new_memory(struct attack_report *report)
{
	u8 *code = memremap(__pa(high_memory - 1) + 1, PAGE_SIZE, MEMREMAP_WB);
	u8 expected[PAYLOAD_BYTES];

	if (!code) {
		attack_say(report, ATTACK_INCONCLUSIVE, "no mapping");
		return;
	}
	payload_copy(expected);
	payload_copy(code);
	if (memcmp(code, expected, sizeof(expected)))
		attack_say(report, ATTACK_ABSENT, "no memory that the kernel does not have");
	else
		run_made_executable(report, code);
	memunmap(code);
}

/* A page of the calling process that holds the payload and may be run by it. */
static unsigned long map_user_payload(void)
{
	u8 code[PAYLOAD_BYTES];
	unsigned long addr;

	addr = vm_mmap(NULL, 0, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
		       MAP_ANONYMOUS | MAP_PRIVATE, 0);
	if (IS_ERR_VALUE(addr))
		return 0;
	payload_copy(code);
	if (copy_to_user((void __user *)addr, code, sizeof(code))) {
		vm_munmap(addr, PAGE_SIZE);
		return 0;
	}
	return addr;
}

void attack_exec_user_alias(struct attack_report *report)
{
	unsigned long addr = map_user_payload();
	struct page *page;

	if (!addr) {
		attack_say(report, ATTACK_INCONCLUSIVE, "no user page");
		return;
	}
	if (get_user_pages_fast(addr, 1, FOLL_WRITE, &page) == 1) {
		run_made_executable(report, page_address(page));
		put_page(page);
	} else {
		attack_say(report, ATTACK_INCONCLUSIVE, "user page is gone");
	}
	vm_munmap(addr, PAGE_SIZE);
}

/*
 * Page-table isolation makes user memory NX in the kernel's own tables, at the
 * top level: an attacker clears that as well.
 */
static void run_user_page(struct attack_report *report, unsigned long addr)
{
	u64 *top = (u64 *)pgd_offset(current->mm, addr);
	unsigned long cr4 = native_read_cr4();
	unsigned long flags;
	u64 old = *top;
	bool ran = false;
	int trap;

	local_irq_save(flags);
	trap = try_write_cr4(cr4 & ~(X86_CR4_SMEP | X86_CR4_LASS));
	if (!trap) {
		WRITE_ONCE(*top, old & ~_PAGE_NX);
		flush_here(addr);
		trap = try_call(addr, &ran);
		WRITE_ONCE(*top, old);
		flush_here(addr);
		try_write_cr4(cr4);
	}
	local_irq_restore(flags);
	flush_everywhere();
	attack_judge(report, trap, ran);
}

void attack_exec_user_smep(struct attack_report *report)
{
	unsigned long addr = map_user_payload();

	if (!addr) {
		attack_say(report, ATTACK_INCONCLUSIVE, "no user page");
		return;
	}
	run_user_page(report, addr);
	vm_munmap(addr, PAGE_SIZE);
}
