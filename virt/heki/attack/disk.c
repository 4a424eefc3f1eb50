// SPDX-License-Identifier: GPL-2.0
/*
 * An attack that has a device do what the CPU may not: the disk reads into text.
 *
 * The disk first gets the bytes that the text holds, but for one that nobody
 * runs. So what an unhindered disk changes is that byte alone, and the same way
 * puts it back. The disk's own sector is put back in the end.
 *
 * Neighbours: main.c, write.c. Locks: none, one attack at a time.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/err.h>
#include <linux/slab.h>

#include <asm/pgtable.h>

#include "heki_attack.h"

#define DISK	"/dev/vda"

/* Puts a sector on the disk, and has the disk read it to where @to is in memory. */
static int carry(struct block_device *disk, void *sector, void *to)
{
	int ret = bdev_rw_virt(disk, 0, sector, SECTOR_SIZE, REQ_OP_WRITE);

	return ret ?: bdev_rw_virt(disk, 0, to, SECTOR_SIZE, REQ_OP_READ);
}

/* Can the disk do for ordinary memory what it is to do for text? */
static bool carries(struct block_device *disk, void *sector)
{
	u8 *copy = kzalloc(SECTOR_SIZE, GFP_KERNEL);
	bool ok = copy && !carry(disk, sector, copy) && !memcmp(sector, copy, SECTOR_SIZE);

	kfree(copy);
	return ok;
}

static void read_into(struct attack_report *report, struct block_device *disk, u8 *sector,
		      const u8 *target)
{
	const u8 *begin = PTR_ALIGN_DOWN(target, SECTOR_SIZE);
	u8 *alias = __va(slow_virt_to_phys((void *)begin));
	u8 before = READ_ONCE(*target);
	int ret;

	memcpy(sector, begin, SECTOR_SIZE);
	sector[target - begin] = ~before;
	if (!carries(disk, sector)) {
		attack_say(report, ATTACK_INCONCLUSIVE, "the disk does not work");
		return;
	}
	ret = carry(disk, sector, alias);
	if (READ_ONCE(*target) != before) {
		sector[target - begin] = before;
		carry(disk, sector, alias);
		attack_say(report, ATTACK_SUCCEEDED, "changed, the disk returned %d", ret);
	} else if (ret) {
		/* The VMM's refusal: the host has nothing to count. */
		attack_say(report, ATTACK_DENIED, "the disk returned %d, unchanged", ret);
	} else {
		attack_say(report, ATTACK_INCONCLUSIVE, "no error and no change");
	}
}

/* The same, and the disk is afterwards as it was. */
static void attack_disk(struct attack_report *report, struct block_device *disk, u8 *sector,
			u8 *saved, const u8 *target)
{
	int ret;

	if (bdev_rw_virt(disk, 0, saved, SECTOR_SIZE, REQ_OP_READ)) {
		attack_say(report, ATTACK_INCONCLUSIVE, "the disk cannot be read");
		return;
	}
	ret = bdev_rw_virt(disk, 0, saved, SECTOR_SIZE, REQ_OP_WRITE);
	if (ret) {
		attack_say(report, ATTACK_INCONCLUSIVE, "the disk returned %d for a write", ret);
		return;
	}
	read_into(report, disk, sector, target);
	if (bdev_rw_virt(disk, 0, saved, SECTOR_SIZE, REQ_OP_WRITE))
		pr_err("the first sector of " DISK " is lost\n");
}

void attack_disk_text(struct attack_report *report)
{
	const u8 *target = find_target(report);
	struct file *file;
	u8 *sectors;

	if (!target)
		return;
	/* That it is written too, nobody checks. */
	file = bdev_file_open_by_path(DISK, BLK_OPEN_READ, NULL, NULL);
	if (IS_ERR(file)) {
		attack_say(report, ATTACK_ABSENT, "no disk");
		return;
	}
	sectors = kmalloc(2 * SECTOR_SIZE, GFP_KERNEL);
	if (sectors)
		attack_disk(report, file_bdev(file), sectors, sectors + SECTOR_SIZE, target);
	else
		attack_say(report, ATTACK_INCONCLUSIVE, "no memory");
	kfree(sectors);
	fput(file);
}
