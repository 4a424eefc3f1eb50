// SPDX-License-Identifier: GPL-2.0
/*
 * heki_living's figures: what a benchmark needs of the kernel. Test only.
 *
 * In debugfs/heki_living, a number written to "mark" is written to an I/O port
 * that no machine has: the host's trace then shows where a measurement begins.
 * Reading "touch" reads a byte of each page of memory, so that the host
 * has all of it mapped afterwards, and says what that took. Reading "denial" says
 * what a write to sealed text takes, and beside it a #GP that no host sees.
 *
 * Neighbours: living.c. Locks: none, one measurement at a time.
 */
#include <linux/debugfs.h>
#include <linux/io.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include <asm/asm.h>
#include <asm/msr.h>

#include "heki_living.h"

/* Unassigned, and written 32 bits at a time. */
#define MARK_PORT	0x2f0
#define DENIAL_ROUNDS	64

static int put_mark(void *data, u64 value)
{
	outl(value, MARK_PORT);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(mark_fops, NULL, put_mark, "%llu\n");

static int touch_show(struct seq_file *m, void *unused)
{
	unsigned long end = PHYS_PFN(virt_to_phys(high_memory));
	u64 touched = 0, begin = rdtsc_ordered();
	u8 byte;

	for (unsigned long pfn = 0; pfn < end; pfn++) {
		if (pfn_valid(pfn) && !get_kernel_nofault(byte, (u8 *)pfn_to_kaddr(pfn)))
			touched++;
		cond_resched();
	}
	seq_printf(m, "pages=%llu ticks=%llu\n", touched, rdtsc_ordered() - begin);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(touch);

/* Writes what is there already. Returns the ticks to its end, or to the end of the #GP. */
static u64 time_write(u8 *addr, u8 value, int *trap)
{
	u64 begin = rdtsc_ordered();

	asm volatile("1: movb %[value], (%[addr])\n"
		     "2:\n"
		     _ASM_EXTABLE_FAULT(1b, 2b)
		     : "+a" (*trap)
		     : [addr] "r" (addr), [value] "q" (value)
		     : "memory");
	return rdtsc_ordered() - begin;
}

static int denial_show(struct seq_file *m, void *unused)
{
	u8 *text = (u8 *)denial_show;
	struct page *page = vmalloc_to_page(text);
	u64 denied = U64_MAX, plain = U64_MAX;
	int trap = 0;
	u8 *alias;

	alias = page ? vmap(&page, 1, VM_MAP, PAGE_KERNEL) : NULL;
	if (!alias)
		return -ENOMEM;
	for (int i = 0; i < DENIAL_ROUNDS; i++) {
		int gp = 0;

		/* Not canonical. */
		plain = min(plain, time_write((u8 *)BIT(62), 0, &gp));
		denied = min(denied, time_write(alias + offset_in_page(text), *text, &trap));
	}
	vunmap(alias);
	seq_printf(m, "denied=%d ticks=%llu gp=%llu\n", !!trap, denied, plain);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(denial);

void figures_init(struct dentry *dir)
{
	debugfs_create_file("mark", 0200, dir, NULL, &mark_fops);
	debugfs_create_file("touch", 0400, dir, NULL, &touch_fops);
	debugfs_create_file("denial", 0400, dir, NULL, &denial_fops);
}
