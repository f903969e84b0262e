"""Runs one os-ken application: `openflow_manager.py MODULE OPTIONS…`. (Newer releases bring no command for that.)"""
import logging, sys

from os_ken import cfg
from os_ken.base.app_manager import AppManager
import os_ken.controller.controller  # noqa: F401 (its options)

logging.basicConfig(level=logging.INFO)
cfg.CONF(sys.argv[2:], project="os_ken")
AppManager.run_apps([sys.argv[1]])
