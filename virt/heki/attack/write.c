// SPDX-License-Identifier: GPL-2.0
/*
 * Attacks that write what the kernel holds read-only, and the control that
 * writes right beside it.
 *
 * Each inverts one byte that nobody uses, looks at it through the mapping that
 * the kernel uses, and puts it back with interrupts off.
 *
 * Neighbours: main.c, tools.c. Locks: none, one attack at a time.
 */
#include <linux/ctype.h>
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sizes.h>
#include <linux/vmalloc.h>

#include <asm/desc.h>
#include <asm/fixmap.h>
#include <asm/pgtable.h>
#include <asm/topology.h>

#include "heki_attack.h"

#define INT3			0xcc
#define PADDING_BYTES		8
#define MAX_FRAMES		16
#define MAX_NEIGHBOUR_PAGES	16384

/* A page of our own, or one in low memory that the kernel keeps to itself. */
static struct page *neighbour;
static bool neighbour_borrowed;

/* Inverts *target through alias and judges by what target holds then. */
static void write_through(struct attack_report *report, u8 *alias,
			  const u8 *target)
{
	u8 before, after;
	int trap;

	before = READ_ONCE(*target);
	trap = try_write(alias, ~before);
	after = READ_ONCE(*target);
	if (after != before)
		try_write(alias, before);
	attack_judge(report, trap, after != before);
}

/* The same through the entry that maps alias, made writable for the moment. */
static void write_made_writable(struct attack_report *report, u8 *alias,
				const u8 *target)
{
	struct leaf leaf;
	unsigned long flags;

	if (!leaf_find(&leaf, (unsigned long)alias)) {
		attack_say(report, ATTACK_INCONCLUSIVE, "no mapping to attack");
		return;
	}
	local_irq_save(flags);
	leaf_edit(&leaf, _PAGE_RW, 0);
	write_through(report, alias, target);
	leaf_restore(&leaf);
	local_irq_restore(flags);
	flush_everywhere();
}

/* The first mapping of kernel text; a large one in any kernel of some size. */
static bool find_text(struct leaf *leaf)
{
	unsigned long addr = __START_KERNEL_map;
	unsigned long end = addr + KERNEL_IMAGE_SIZE;

	while (addr < end) {
		if (leaf_find(leaf, addr) &&
		    !(leaf->old & (_PAGE_RW | _PAGE_NX)))
			return true;
		addr = (addr & PMD_MASK) + PMD_SIZE;
	}
	return false;
}

/* A byte of padding between two functions: never run, the same on every CPU. */
static const u8 *find_padding(void)
{
	struct leaf leaf;
	const u8 *byte, *end;
	unsigned int run = 0;

	if (!find_text(&leaf))
		return NULL;
	byte = (const u8 *)(leaf.addr & ~(leaf_size(&leaf) - 1));
	end = byte + leaf_size(&leaf);
	for (; byte < end; byte++) {
		run = *byte == INT3 ? run + 1 : 0;
		if (run == PADDING_BYTES)
			return byte - PADDING_BYTES / 2;
	}
	return NULL;
}

/* What the attacks on text write; says so if there is none. */
const u8 *find_target(struct attack_report *report)
{
	const u8 *target = find_padding();

	if (!target)
		attack_say(report, ATTACK_INCONCLUSIVE, "no padding found in text");
	return target;
}

static u8 *direct_map(const u8 *target)
{
	return __va(slow_virt_to_phys((void *)target));
}

void write_through_direct_map(struct attack_report *report, const u8 *target)
{
	write_made_writable(report, direct_map(target), target);
}

void attack_text_direct_map(struct attack_report *report)
{
	const u8 *target = find_target(report);

	if (target)
		write_through_direct_map(report, target);
}

/* A byte that no CPU looks at, of the gate of a vector that is reserved. */
void attack_idt(struct attack_report *report)
{
	struct desc_ptr idt;

	store_idt(&idt);
	write_through_direct_map(report, (u8 *)&((gate_desc *)idt.address)[31].reserved);
}

/* What starts other CPUs: the only code below 1 MiB. None is being started. */
void attack_trampoline(struct attack_report *report)
{
	struct leaf leaf;

	for (unsigned long phys = 0; phys < SZ_1M; phys += PAGE_SIZE) {
		if (leaf_find(&leaf, (unsigned long)__va(phys)) &&
		    leaf_size(&leaf) == PAGE_SIZE && !(leaf.old & (_PAGE_RW | _PAGE_NX))) {
			write_through_direct_map(report, __va(phys));
			return;
		}
	}
	attack_say(report, ATTACK_INCONCLUSIVE, "no trampoline found");
}

/* A writable mapping of the page of target, and in it the same byte; NULL without memory. */
u8 *map_writable(const u8 *target)
{
	struct page *page = pfn_to_page(slow_virt_to_phys((void *)target) >> PAGE_SHIFT);
	u8 *alias = vmap(&page, 1, VM_MAP, PAGE_KERNEL);

	return alias ? alias + offset_in_page(target) : NULL;
}

void unmap_writable(const u8 *alias)
{
	vunmap(alias - offset_in_page(alias));
}

void attack_text_vmap(struct attack_report *report)
{
	const u8 *target = find_target(report);
	unsigned long flags;
	u8 *alias;

	if (!target)
		return;
	alias = map_writable(target);
	if (!alias) {
		attack_say(report, ATTACK_INCONCLUSIVE, "no memory");
		return;
	}
	local_irq_save(flags);
	write_through(report, alias, target);
	local_irq_restore(flags);
	unmap_writable(alias);
}

/*
 * set_fixmap() is not for modules; its page table is plain data. The slots of early_ioremap() are
 * free once the kernel runs.
 */
void attack_text_fixmap(struct attack_report *report)
{
	struct leaf slot = { .addr = fix_to_virt(FIX_BTMAP_BEGIN) };
	const u8 *target = find_target(report);
	unsigned long flags;
	pte_t text;

	if (!target)
		return;
	slot.entry = (u64 *)lookup_address(slot.addr, &slot.level);
	if (!slot.entry || slot.level != PG_LEVEL_4K || *slot.entry) {
		attack_say(report, ATTACK_INCONCLUSIVE, "no free slot");
		return;
	}
	text = pfn_pte(slow_virt_to_phys((void *)target) >> PAGE_SHIFT, PAGE_KERNEL);
	local_irq_save(flags);
	leaf_edit(&slot, pte_val(text), 0);
	write_through(report, (u8 *)slot.addr + offset_in_page(target), target);
	leaf_restore(&slot);
	local_irq_restore(flags);
}

/* Fills table with writable 4 KiB entries for what the large entry maps. */
static void split_large(u64 *table, u64 large)
{
	u64 pfn = (large & PTE_PFN_MASK & PMD_MASK) >> PAGE_SHIFT;
	pgprot_t prot = pgprot_large_2_4k(__pgprot(large & ~PTE_PFN_MASK));

	for (int i = 0; i < PTRS_PER_PTE; i++)
		table[i] = pte_val(pfn_pte(pfn + i, __pgprot(pgprot_val(prot) | _PAGE_RW)));
}

void attack_text_split(struct attack_report *report)
{
	const u8 *target = find_target(report);
	struct leaf leaf;
	unsigned long flags;
	u64 *table;
	u8 *alias;

	if (!target)
		return;
	alias = direct_map(target);
	if (!leaf_find(&leaf, (unsigned long)alias) || leaf.level != PG_LEVEL_2M) {
		attack_say(report, ATTACK_INCONCLUSIVE, "text is not mapped by a 2 MiB page");
		return;
	}
	table = (u64 *)get_zeroed_page(GFP_KERNEL);
	if (!table) {
		attack_say(report, ATTACK_INCONCLUSIVE, "no memory");
		return;
	}
	split_large(table, leaf.old);

	local_irq_save(flags);
	WRITE_ONCE(*leaf.entry, __pa(table) | _KERNPG_TABLE_NOENC);
	flush_here(leaf.addr);
	write_through(report, alias, target);
	leaf_edit(&leaf, _PAGE_RW, 0);
	write_through(report, alias, target);
	leaf_restore(&leaf);
	local_irq_restore(flags);

	flush_everywhere();
	free_page((unsigned long)table);
}

void attack_rodata(struct attack_report *report)
{
	/* The class of the last character of Latin-1. */
	const u8 *target = &_ctype[255];

	write_made_writable(report, (u8 *)target, target);
}

void attack_ro_after_init(struct attack_report *report)
{
	/* The high byte of a small number, which stays one. */
	u8 *target = (u8 *)&__num_nodes_per_package + 3;

	write_made_writable(report, target, target);
}

/* Its bytes are the target; nothing calls it. */
static noinline __used int victim(void)
{
	barrier();
	return 0x12345678;
}

void attack_module_text(struct attack_report *report)
{
	u8 *target = (u8 *)victim;

	write_made_writable(report, target, target);
}

void attack_neighbour(struct attack_report *report)
{
	unsigned long flags;
	u8 *byte;

	if (!neighbour) {
		attack_say(report, ATTACK_INCONCLUSIVE, "no page found beside a read-only one");
		return;
	}
	byte = page_address(neighbour);
	local_irq_save(flags);
	write_through(report, byte, byte);
	local_irq_restore(flags);
}

static unsigned long frame_of(const void *addr)
{
	return slow_virt_to_phys((void *)addr) >> PMD_SHIFT;
}

/*
 * The 2 MiB frames of which the kernel holds only some pages read-only: that of
 * this module's read-only data, and the ends of its own text and data.
 */
static int mixed_frames(unsigned long *frames)
{
	unsigned long addr = __START_KERNEL_map;
	unsigned long end = addr + KERNEL_IMAGE_SIZE;
	struct leaf leaf;
	int nr = 0;

	frames[nr++] = frame_of(THIS_MODULE->mem[MOD_RODATA].base);

	while (addr < end && nr < MAX_FRAMES) {
		unsigned long frame;

		if (!leaf_find(&leaf, addr) || leaf.level != PG_LEVEL_4K) {
			addr = (addr & PMD_MASK) + PMD_SIZE;
			continue;
		}
		frame = frame_of((void *)addr);
		if (!(leaf.old & _PAGE_RW) && frames[nr - 1] != frame)
			frames[nr++] = frame;
		addr += PAGE_SIZE;
	}
	return nr;
}

static bool in_frames(struct page *page, const unsigned long *frames, int nr)
{
	for (int i = 0; i < nr; i++)
		if (page_to_phys(page) >> PMD_SHIFT == frames[i])
			return true;
	return false;
}

/* Takes free pages until one lies in such a frame, and keeps that one. */
static struct page *allocate_neighbour(void)
{
	unsigned long frames[MAX_FRAMES];
	int nr = mixed_frames(frames);
	struct page *page, *next, *found = NULL;
	LIST_HEAD(others);

	for (int i = 0; !found && i < MAX_NEIGHBOUR_PAGES; i++) {
		page = alloc_page(GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN | __GFP_ZERO);
		if (!page)
			break;
		if (in_frames(page, frames, nr))
			found = page;
		else
			list_add(&page->lru, &others);
	}
	list_for_each_entry_safe(page, next, &others, lru) {
		list_del(&page->lru);
		__free_page(page);
	}
	return found;
}

/*
 * The page before the real-mode trampoline. The kernel reserves the first
 * 1 MiB and uses none of it but the trampoline.
 */
static struct page *borrow_neighbour(void)
{
	struct leaf leaf, before;

	for (unsigned long pa = PAGE_SIZE; pa < SZ_1M; pa += PAGE_SIZE) {
		if (leaf_find(&leaf, (unsigned long)__va(pa)) &&
		    !(leaf.old & _PAGE_RW) &&
		    leaf_find(&before, (unsigned long)__va(pa - PAGE_SIZE)) &&
		    (before.old & _PAGE_RW))
			return pfn_to_page((pa >> PAGE_SHIFT) - 1);
	}
	return NULL;
}

void neighbour_init(void)
{
	neighbour = allocate_neighbour();
	if (!neighbour) {
		neighbour = borrow_neighbour();
		neighbour_borrowed = true;
	}
}

void neighbour_exit(void)
{
	if (neighbour && !neighbour_borrowed)
		__free_page(neighbour);
}
