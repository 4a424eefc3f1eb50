/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of heki_living share: see living.c.
 *
 * Neighbours: living.c, debugger.c, figures.c. Locks: living_lock of living.c.
 */
#ifndef _HEKI_LIVING_H
#define _HEKI_LIVING_H

#include <linux/errno.h>

struct dentry;

/* Makes the files of figures.c in @dir. */
void figures_init(struct dentry *dir);

#ifdef CONFIG_KGDB
/*
 * Has kgdb set a breakpoint at @addr and take it away: 0, -EPERM if kgdb says so
 * and nothing changed, another error if what it says is not what it did. No other
 * CPU may be online.
 */
int debugger_breakpoint(void *addr);
#else
static inline int debugger_breakpoint(void *addr)
{
	return -EOPNOTSUPP;
}
#endif

#endif /* _HEKI_LIVING_H */
