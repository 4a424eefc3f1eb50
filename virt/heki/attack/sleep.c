// SPDX-License-Identifier: GPL-2.0
/*
 * Keeps others from refusing that the machine sleeps, when debugfs/heki_attack/sleep
 * says so: what is asked first has the last word.
 *
 * Neighbours: main.c, which makes the file. Locks: that of the notifiers.
 */
#include <linux/compiler.h>
#include <linux/limits.h>
#include <linux/notifier.h>
#include <linux/suspend.h>

#include "heki_attack.h"

bool sleep_allowed;

static int sleep_event(struct notifier_block *nb, unsigned long event, void *unused)
{
	return READ_ONCE(sleep_allowed) ? NOTIFY_STOP : NOTIFY_DONE;
}

/* Those of one priority are asked in the order in which they came: this one before the seal. */
static struct notifier_block sleep_notifier = {
	.notifier_call = sleep_event,
	.priority = INT_MAX,
};

int sleep_init(void)
{
	return register_pm_notifier(&sleep_notifier);
}

void sleep_exit(void)
{
	unregister_pm_notifier(&sleep_notifier);
}
